"""PostgreSQL, alone and with a streaming replica."""

import functools
import itertools
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.backends.ports import free_port
from tests.backends.server import Server, ServerMissing
from tests.backends.waiting import wait_until

_COMMON = """
listen_addresses = '127.0.0.1'
max_connections = 200
shared_buffers = 32MB
jit = off
wal_level = replica
hot_standby = on
password_encryption = scram-sha-256
log_line_prefix = '%m %p %a '
"""

_WHO_MAY_CONNECT = """
local all         postgres               trust
host  all         app       127.0.0.1/32 scram-sha-256
host  replication app       127.0.0.1/32 scram-sha-256
"""


_PASSWORD = secrets.token_hex(8)


class Postgresql(Server):
    """PostgreSQL with a role `app`, which may do what an application's owner may, and be a replica.

    `durable=False` leaves out fsync: quicker, and the same to every client unless the machine dies.
    """

    system_user = "postgres"
    user = "app"
    stop_signal = signal.SIGINT  # "fast": ends sessions, writes a checkpoint

    def __init__(self, name: str = "postgresql", *, durable: bool = True) -> None:
        self._programs = _programs()
        super().__init__(name)
        self.port = free_port()
        self.password = _PASSWORD
        self.data = self._own_folder("data")
        self._sockets = self._own_folder("sockets")
        self._numbers = itertools.count(1)
        self.configuration = {
            "port": str(self.port),
            "unix_socket_directories": f"'{self._sockets}'",
            "fsync": "on" if durable else "off",
        }

    def _command(self) -> Sequence[str]:
        options = [f"--{name}={value.strip(chr(39))}" for name, value in self.configuration.items()]
        return [str(self._programs / "postgres"), "-D", str(self.data), *options]

    def _answers(self) -> bool:
        how = f"-q -t 1 -h {self.host} -p {self.port}".split()
        return subprocess.run([self._programs / "pg_isready", *how], check=False).returncode == 0

    def start(self) -> None:
        if not any(self.data.iterdir()):
            self._run("cp", "-a", f"{_template().data}/.", self.data)
        super().start()

    def initialise(self) -> None:
        """Make an empty server with the role `app`. `start` does it by a copy of one that was made before."""
        how = ["-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C", "--auth=reject"]
        self._run(self._programs / "initdb", *how, "-D", self.data)
        role = f"CREATE ROLE app LOGIN REPLICATION IN ROLE pg_signal_backend PASSWORD '{self.password}'"
        self._run(self._programs / "postgres", "--single", "-F", "-D", self.data, "postgres", stdin=role)
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.write(_COMMON)
        (self.data / "pg_hba.conf").write_text(_WHO_MAY_CONNECT)

    def run_sql(self, *statements: str, database: str = "postgres", limit_seconds: float = 20) -> str:
        """Run statements, one after the other, as the superuser; the rows of the last one as text."""
        commands = [part for statement in statements for part in ("-c", statement)]
        how = f"-XqAt -v ON_ERROR_STOP=1 -U postgres -p {self.port} -d {database}".split()
        return self._run(self._programs / "psql", *how, "-h", self._sockets, *commands, limit_seconds=limit_seconds)

    def fresh_database(self) -> str:
        """The name of a new, empty database that belongs to `app`."""
        name = f"test_{next(self._numbers)}_{secrets.token_hex(3)}"
        self.run_sql(f"CREATE DATABASE {name} OWNER app")
        return name

    @property
    def is_replica(self) -> bool:
        return self.run_sql("SELECT pg_is_in_recovery()") == "t"

    def copy_from(self, primary: "Postgresql") -> None:
        """Take a base backup of a primary, to start as its streaming replica."""
        how = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        self._run(self._programs / "pg_basebackup", *how, "-D", self.data, "-d", primary.conninfo(self.name))

    def follow(self, primary: "Postgresql") -> None:
        """Make it, while it is stopped, a replica of a primary that has all that this one has."""
        (self.data / "standby.signal").touch()
        shutil.chown(self.data / "standby.signal", self.data.owner(), self.data.group())
        self.configuration["primary_conninfo"] = primary.conninfo(self.name)

    def conninfo(self, application: str) -> str:
        where = f"host={self.host} port={self.port} user={self.user} password={self.password}"
        return f"{where} application_name={application} sslmode=disable"


class PostgresqlPair:
    """A primary and its streaming replica. After `promote_replica` or `switch_over` the two names have changed places.

    `synchronous`: a commit is answered when one replica has it on disk, and waits while there is none.
    """

    def __init__(self, *, synchronous: bool = False) -> None:
        self.primary = Postgresql("postgresql-one", durable=synchronous)
        self.replica = Postgresql("postgresql-two", durable=synchronous)
        if synchronous:
            for server in self.members:
                server.configuration["synchronous_standby_names"] = "ANY 1 (*)"

    @property
    def members(self) -> tuple[Postgresql, Postgresql]:
        return self.primary, self.replica

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        self.primary.start()
        self.replica.copy_from(self.primary)
        self.replica.start()
        self.wait_until_replicating()

    def wait_until_replicating(self) -> None:
        """Until the replica has all that the primary has written so far."""
        written = self.primary.run_sql("SELECT pg_current_wal_flush_lsn()")
        streaming = f"SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn >= '{written}'"
        wait_until(lambda: self.primary.run_sql(streaming) == "1", "the replica has caught up", within_seconds=15)

    def promote_replica(self) -> None:
        """The replica becomes the primary, whatever the old primary is or does: kill or pause that first, or not."""
        self.replica.run_sql("SELECT pg_promote(true, 15)")
        wait_until(lambda: not self.replica.is_replica, "the replica is promoted", within_seconds=15)
        self.primary, self.replica = self.replica, self.primary

    def switch_over(self) -> None:
        """As an operator would: both stay, nothing is lost, and who was the primary is a replica of the other now."""
        self.primary.stop()  # the last it does is to send the rest to the replica
        self.promote_replica()
        self.replica.follow(self.primary)
        self.replica.start()
        self.wait_until_replicating()

    def close(self) -> None:
        for server in self.members:
            server.close()


@functools.cache
def _template() -> Postgresql:
    """Initialised once for the run, and never started: each server begins as a copy of it."""
    template = Postgresql("postgresql-template")
    template.initialise()
    return template


def _programs() -> Path:
    """The folder of the newest PostgreSQL on this machine."""
    versions = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not versions:
        raise ServerMissing("postgresql")
    return max(versions, key=lambda folder: int(folder.parent.name))
