"""The servers of one node, and all their settings. A node is an address on loopback, so ports are the usual ones."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis

from drill.manifests import Production
from tests.backends.server import Server, ServerMissing

NODES = ("127.0.1.1", "127.0.1.2", "127.0.1.3")
PROXIES = ("127.0.1.10", "127.0.1.11")
PASSWORD = secrets.token_hex(12)
MASTER_NAME = "mymaster"
NAMES_PORT = 14369  # Erlang's name server; not its usual port, so that it is ours alone
PATRONI = "4.1.5"
LEASE_OF_THE_PRIMARY = "/service/drill/leader"  # Patroni's key in etcd: namespace, scope, and the name of the lock
PROGRAM = ("urlshortener",)

# How long a member that ended is away: a supervisor starts it again after that. A Redis waits longer, as the manifests
# say: back within a second it makes Sentinel wait for half a minute.
RESTART_SECONDS = 0.5

# In place of the operator of PostgreSQL, and with its times.
_PATRONI = {
    "ttl": 20,
    "loop_wait": 1,
    "retry_timeout": 3,
    "primary_start_timeout": 0,
    "synchronous_mode": "quorum",
    "synchronous_mode_strict": True,
    "failsafe_mode": True,
    "check_timeline": True,
}
_NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 16384; }
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  client_header_timeout 5s;
  large_client_header_buffers 4 8k;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $http_host;
  proxy_set_header X-Edge-Request-Id $request_id;
  proxy_set_header X-Request-ID $request_id;
  proxy_set_header X-Real-IP $remote_addr;
  proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header X-Forwarded-Host $http_host;
  proxy_set_header X-Forwarded-Port $server_port;
  proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header X-Forwarded-Scheme $scheme;
  proxy_set_header X-Scheme $scheme;
"""


class Member(Server):
    """A server of one node. Its supervisor starts it again a moment after it ended, whatever ended it."""

    restart_seconds = RESTART_SECONDS
    start_seconds = 90.0

    def __init__(self, role: str, address: str, port: int) -> None:
        self.role, self.address, self.port = role, address, port
        super().__init__(f"{role}-{address}")
        self.ended_at: float | None = None
        self.is_held_down = False  # whatever ends it, nobody starts it again meanwhile

    def __str__(self) -> str:
        return f"{self.role} of {self.address}"

    def supervise(self, now: float) -> None:
        if self.is_running:
            self.ended_at = None
        elif self.ended_at is None:
            self.ended_at = now
        elif not self.is_held_down and now - self.ended_at >= self.restart_seconds:
            self.launch()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), timeout=1):
            return True
        return False


class Etcd(Member):
    def __init__(self, address: str) -> None:
        super().__init__("etcd", address, 2379)

    def _command(self) -> Sequence[str]:
        peers = ",".join(f"{node}=http://{node}:2380" for node in NODES)
        return [
            *("etcd", "--name", self.address, "--data-dir", str(self.folder / "data"), "--log-level", "warn"),
            *("--listen-client-urls", f"http://{self.address}:2379"),
            *("--advertise-client-urls", f"http://{self.address}:2379"),
            *("--listen-peer-urls", f"http://{self.address}:2380"),
            *("--initial-advertise-peer-urls", f"http://{self.address}:2380"),
            *("--initial-cluster", peers, "--initial-cluster-token", "drill", "--initial-cluster-state", "new"),
        ]

    def _answers(self) -> bool:
        return gives_200(f"http://{self.address}:2379/health")

    @property
    def is_leader(self) -> bool:
        """It says its own id and its leader's."""
        ask = urllib.request.Request(f"http://{self.address}:2379/v3/maintenance/status", data=b"{}")
        with contextlib.suppress(OSError), urllib.request.urlopen(ask, timeout=2) as answer:
            status = json.load(answer)
            return bool(status["header"]["member_id"] == status["leader"])
        return False

    def delete(self, key: str) -> None:
        body = json.dumps({"key": b64encode(key.encode()).decode()}).encode()
        ask = urllib.request.Request(f"http://{self.address}:2379/v3/kv/deleterange", data=body)
        with urllib.request.urlopen(ask, timeout=5) as answer:
            assert json.load(answer).get("deleted") == "1", f"{self} has no {key}"


class Postgresql(Member):
    """PostgreSQL under Patroni. Killed, both are."""

    system_user = "postgres"

    def __init__(self, address: str) -> None:
        super().__init__("postgresql", address, 5432)
        self._program = patroni()
        self._sockets = self._own_folder("sockets")
        data = self._own_folder("data")
        self._programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        who = {"username": "postgres", "password": PASSWORD}
        configuration = {
            "scope": "drill",
            "name": address.replace(".", "-"),
            "restapi": {"listen": f"{address}:8008", "connect_address": f"{address}:8008"},
            "etcd3": {"hosts": [f"{node}:2379" for node in NODES]},
            "bootstrap": {"dcs": _patroni_cluster(), "initdb": [{"encoding": "UTF8"}, {"locale": "C"}]},
            "postgresql": {
                "listen": f"{address}:5432",
                "connect_address": f"{address}:5432",
                "data_dir": str(data),
                "bin_dir": str(self._programs),
                "pgpass": str(self._sockets / "passwords"),
                "parameters": {"unix_socket_directories": str(self._sockets)},
                "authentication": {"superuser": who, "replication": who, "rewind": who},
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.0/8 scram-sha-256",
                    "host replication all 127.0.0.0/8 scram-sha-256",
                ],
            },
        }
        file = self._sockets / "patroni.json"
        file.write_text(json.dumps(configuration))  # what is JSON is YAML too
        if os.geteuid() == 0:
            shutil.chown(file, "postgres", "postgres")
        self._file = file

    def _command(self) -> Sequence[str]:
        return [str(self._program), str(self._file)]

    def _answers(self) -> bool:
        return gives_200(f"http://{self.address}:8008/health")

    @property
    def is_primary(self) -> bool:
        return gives_200(f"http://{self.address}:8008/primary")

    @property
    def is_replica(self) -> bool:
        return gives_200(f"http://{self.address}:8008/replica")

    @property
    def promoted_at(self) -> float:
        """When it was last made primary, by the wall clock and as its log says; 0, if that is not there."""
        told = [line for line in self.log_tail(5000).splitlines() if "received promote request" in line]
        return datetime.fromisoformat(told[-1][:23]).replace(tzinfo=UTC).timestamp() if told else 0.0

    def change_cluster(self, settings: Mapping[str, object]) -> None:
        """Settings of Patroni, for all members."""
        change = urllib.request.Request(
            f"http://{self.address}:8008/config", data=json.dumps(settings).encode(), method="PATCH"
        )
        with urllib.request.urlopen(change, timeout=10):
            pass

    def run_sql(self, statement: str, database: str = "postgres") -> str:
        how = ["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", str(self._sockets), "-d", database]
        return self._run(self._programs / "psql", *how, "-c", statement, limit_seconds=30)


def _patroni_cluster() -> dict[str, object]:
    production = Production.rendered()
    parameters = production.with_additions("postgresql")
    return {
        **_PATRONI,
        "synchronous_node_count": production.replicas_to_wait_for,
        "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": parameters},
    }


class NamesOfErlang(Member):
    """One for the machine: it takes no more. It dies with no node."""

    def __init__(self) -> None:
        super().__init__("epmd", NODES[0], NAMES_PORT)

    def _command(self) -> Sequence[str]:
        return ["epmd", "-port", str(NAMES_PORT), "-address", ",".join(NODES)]


class Rabbitmq(Member):
    system_user = "rabbitmq"

    def __init__(self, address: str, cookie: str) -> None:
        super().__init__("rabbitmq", address, 5672)
        self._home, self._data = self._own_folder("home"), self._own_folder("data")
        self._cookie = cookie
        self.node = _erlang_name(address)
        nodes = "\n".join(
            f"cluster_formation.classic_config.nodes.{number} = {_erlang_name(node)}"
            for number, node in enumerate(NODES, 1)
        )
        common = Production.rendered().with_additions("rabbitmq")
        own = f"listeners.tcp.default = {address}:5672\ndefault_pass = {PASSWORD}\n{nodes}\n"
        settings = own + "".join(f"{name} = {value}\n" for name, value in common.items())
        (self.folder / "rabbitmq.conf").write_text(settings)
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "environment.conf").touch()

    def _command(self) -> Sequence[str]:
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]

    def _environment(self) -> Mapping[str, str]:
        interface = self.address.replace(".", ",")
        quiet = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"
        return {
            "HOME": str(self._home),
            "ERL_EPMD_PORT": str(NAMES_PORT),
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_NODENAME": self.node,
            # The ports differ too: Erlang refuses one that another node of the machine has, whatever its address.
            "RABBITMQ_DIST_PORT": str(25672 + NODES.index(self.address)),
            "RABBITMQ_MNESIA_BASE": str(self._data),
            "RABBITMQ_LOG_BASE": str(self._data),
            "RABBITMQ_PID_FILE": str(self._data / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "environment.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self._data / "config"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(self._data / "feature_flags"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"{quiet} -kernel inet_dist_use_interface {{{interface}}} -setcookie {self._cookie}"
            ),
        }

    def evaluate(self, erlang: str, limit_seconds: float = 15) -> str:
        """What an Erlang expression gives, in the node."""
        how = ["-name", self.node, "-c", self._cookie, "-e"]
        answer = self._run("erl_call", *how, stdin=f"{erlang}.\n", limit_seconds=limit_seconds)
        assert answer.startswith("{ok, "), f"{erlang}: {answer}"
        return answer.removeprefix("{ok, ").removesuffix("}")

    @property
    def is_clustered(self) -> bool:
        return self.evaluate("length(rabbit_mnesia:cluster_nodes(running))") == str(len(NODES))

    def leader_of(self, queue: str) -> str:
        """The address of the node that leads a quorum queue."""
        found = self.evaluate(f"{_lookup(queue)}, {{_, Node}} = amqqueue:get_pid(Q), Node")
        return found.strip("'").partition("@")[2]

    def messages_in(self, queue: str, limit_seconds: float = 15) -> int:
        """Those that wait, and those that are out and not acknowledged."""
        count = f"{_lookup(queue)}, [{{_, N}}] = rabbit_quorum_queue:info(Q, [messages]), N"
        return int(self.evaluate(count, limit_seconds))


def _lookup(queue: str) -> str:
    return f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>))'


def _erlang_name(address: str) -> str:
    return f"rabbit{NODES.index(address) + 1}@{address}"


class Redis(Member):
    def __init__(self, address: str) -> None:
        super().__init__("redis", address, 6379)
        production = Production.rendered()
        self.restart_seconds = production.redis_start_delay_seconds
        lines = [f"bind {address}", "port 6379", f"dir {self.folder}", f"requirepass {PASSWORD}"]
        lines.append(f"masterauth {PASSWORD}")
        lines += [f"{name} {value}" for name, value in production.with_additions("redis").items()]
        # Between addresses of loopback, a connection comes from the one that it goes to: nobody can be told by that.
        lines.append(f"replica-announce-ip {address}")
        if address != NODES[0]:
            lines.append(f"replicaof {NODES[0]} 6379")
        self._settings = self.folder / "settings"
        self._settings.write_text("\n".join([*lines, ""]))

    def _command(self) -> Sequence[str]:
        return ["redis-server", str(self._settings)]

    def stop(self) -> None:
        """One that is writing its first file of commands declines to end, and is killed when its time is over."""
        try:
            super().stop()
        except AssertionError:
            self.kill()

    def ask(self, *command: str) -> Any:
        with redis.Redis(self.address, 6379, password=PASSWORD, socket_timeout=5, decode_responses=True) as client:
            return client.execute_command(*command)

    @property
    def role_in_words(self) -> str:
        """As `master 2`, with the replicas that follow it, or `slave connected`; empty when it does not answer."""
        with contextlib.suppress(redis.RedisError):
            match self.ask("ROLE"):
                case ["master", _, replicas]:
                    return f"master {len(replicas)}"
                case ["slave", _, _, state, _]:
                    return f"slave {state}"
        return ""


class Sentinel(Member):
    def __init__(self, address: str) -> None:
        super().__init__("sentinel", address, 26379)
        self._settings = self.folder / "settings"
        production = Production.rendered().used("sentinel")
        self._settings.write_text(
            f"bind {address}\nport 26379\ndir {self.folder}\nsentinel announce-ip {address}\n"
            f"sentinel monitor {MASTER_NAME} {NODES[0]} 6379 2\n"
            f"sentinel auth-pass {MASTER_NAME} {PASSWORD}\n"
            + "".join(f"sentinel {name} {MASTER_NAME} {value}\n" for name, value in production.items())
        )

    def _command(self) -> Sequence[str]:
        return ["redis-sentinel", str(self._settings)]

    @property
    def is_whole(self) -> bool:
        """Whether it knows both replicas and both other Sentinels."""
        with (
            contextlib.suppress(redis.RedisError),
            redis.Redis(self.address, 26379, socket_timeout=2, decode_responses=True) as client,
        ):
            state = client.execute_command("SENTINEL", "MASTER", MASTER_NAME)
            return int(state["num-slaves"]) == int(state["num-other-sentinels"]) == len(NODES) - 1
        return False


class Service(Member):
    """One process of ours."""

    def __init__(self, command: str, address: str, settings: Mapping[str, str]) -> None:
        super().__init__(command, address, {"shortener": 8080, "analytics": 8081}[command])
        self.ops_url = f"http://{address}:{self.port + 1010}"
        self.spool = self.folder / "data" / "spool"
        self._settings = settings
        self.program: Sequence[str] = PROGRAM
        self.differs: Mapping[str, str] = {}  # settings that are others than usually

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-m", *self.program, self.role]

    def _environment(self) -> Mapping[str, str]:
        python = {"PYTHONPATH": str(Path(__file__).parent.parent)}
        return {"HOST": self.address, "DATA_DIR": str(self.folder / "data"), **python, **self._settings, **self.differs}

    def _answers(self) -> bool:
        return gives_200(f"{self.ops_url}/ready")

    def metric(self, name: str, limit_seconds: float = 5) -> float:
        """The sum of a metric's values."""
        return metric(self.ops_url, name, limit_seconds)


class Nginx(Member):
    stop_signal = signal.SIGQUIT  # it finishes what is under way, as the ingress controller has it do

    def __init__(self, address: str) -> None:
        super().__init__("nginx", address, 8080)
        doors = _retries_of_the_ingress()
        for port in (8080, 8081):
            upstreams = " ".join(f"server {node}:{port} max_fails=1 fail_timeout=2s;" for node in NODES)
            doors += f"  upstream door{port} {{ {upstreams} keepalive 32; }}\n"
            doors += f"  server {{ listen {address}:{port}; location / {{ proxy_pass http://door{port}; }} }}\n"
        (self.folder / "nginx.conf").write_text(f"{_NGINX}{doors}}}\n")
        self.folder.chmod(0o711)

    def _command(self) -> Sequence[str]:
        return ["/usr/sbin/nginx", "-p", str(self.folder), "-c", "nginx.conf", "-e", "stderr"]


def _retries_of_the_ingress() -> str:
    """Its annotations as directives. What is a number there is of seconds."""
    lines = ""
    for name, value in Production.rendered().used("ingress").items():
        directive = {"proxy-body-size": "client_max_body_size"}.get(name, name.replace("-", "_"))
        lines += f"  {directive} {f'{value}s' if name.endswith('-timeout') else value};\n"
    return lines


def service_settings() -> dict[str, str]:
    """Of both services, on every node."""
    return {
        **Production.rendered().used("service"),
        "LINKS_URL": f"postgresql://app@{','.join(f'{node}:5432' for node in NODES)}/links",
        "LINKS_READ_URL": f"postgresql://app@{','.join(f'{node}:5432' for node in NODES)}/links",
        "LINKS_PASSWORD": PASSWORD,
        "EVENTS_URL": f"amqp://app@{','.join(f'{node}:5672' for node in NODES)}/%2F",
        "EVENTS_PASSWORD": PASSWORD,
        "STATS_URL": f"redis+sentinel://{','.join(f'{node}:26379' for node in NODES)}/{MASTER_NAME}/0",
        "STATS_PASSWORD": PASSWORD,
        "VISITOR_SECRET": PASSWORD,
        # Whoever connects on loopback comes from 127.0.0.1, unless it chose an address of its own.
        "TRUSTED_PROXIES": "127.0.0.0/8",
    }


def patroni() -> Path:
    """Patroni itself, installed once for the machine.

    With the system's Python, because user `postgres` must be able to read it.
    """
    for program, package in (
        ("etcd", "etcd-server"),
        ("redis-sentinel", "redis-sentinel"),
        ("erl_call", "rabbitmq-server"),
        ("/usr/sbin/nginx", "nginx-light"),
        ("/usr/lib/postgresql", "postgresql"),
    ):
        if not (Path(program).exists() or shutil.which(program)):
            raise ServerMissing(package)
    folder = Path(f"/var/tmp/urlshortener-drill-{os.geteuid()}")
    folder.mkdir(mode=0o755, exist_ok=True)
    assert folder.stat().st_uid == os.geteuid(), f"{folder} belongs to somebody else"
    environment = folder / f"patroni-{PATRONI}"
    done = environment / "done"
    if not done.exists():
        print(f"installing Patroni {PATRONI} into {environment}, once", flush=True)
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run(["/usr/bin/python3", "-m", "venv", environment], check=True, timeout=120)
        package = f"patroni[etcd3,psycopg3]=={PATRONI}"
        pip = [str(environment / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, package, "psycopg[binary]"], check=True, timeout=300)
        done.touch()
    return environment / "bin" / "patroni"


def metric(ops_url: str, name: str, limit_seconds: float = 5) -> float:
    with urllib.request.urlopen(f"{ops_url}/metrics", timeout=limit_seconds) as answer:
        lines = answer.read().decode().splitlines()
    found = [float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
    assert found, f"{ops_url} has no metric {name}"
    return sum(found)


def gives_200(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_for(condition: Callable[[], object], what: str, within_seconds: float, every_seconds: float = 0.2) -> None:
    """As wait_until of the tests, but what cannot be asked yet is not so yet."""
    end = time.monotonic() + within_seconds
    while True:
        with contextlib.suppress(AssertionError, OSError, redis.RedisError, subprocess.SubprocessError, ValueError):
            if condition():
                return
        assert time.monotonic() < end, f"{what}: not within {within_seconds:.0f} s"
        time.sleep(every_seconds)
