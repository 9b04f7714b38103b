"""RabbitMQ."""

import contextlib
import itertools
import json
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.backends.ports import free_port
from tests.backends.server import Server, ServerMissing
from tests.backends.waiting import wait_until

_PROGRAM = Path(
    "/usr/lib/rabbitmq/bin/rabbitmq-server"
)  # the one on PATH is a wrapper that wants to change user itself

# One scheduler, and no spinning while idle: it shares two cores with everything that is under test.
_QUIET_VM = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"


class Rabbitmq(Server):
    """A RabbitMQ node with its own name server (epmd), its own cookie, and a user that may do everything.

    It is spoken to with `erl_call`, which takes milliseconds where rabbitmqctl takes seconds.
    """

    system_user = "rabbitmq"
    start_seconds = 60.0
    user = "app"

    def __init__(self, name: str = "rabbitmq") -> None:
        if not _PROGRAM.exists() or not shutil.which("erl_call"):
            raise ServerMissing("rabbitmq-server")
        super().__init__(name)
        self.port = free_port()
        self.password = secrets.token_hex(8)
        self.node = f"{self.folder.name}@localhost"
        self._names_port, self._nodes_port = free_port(), free_port()
        self._cookie = secrets.token_hex(16)
        self._home = self._own_folder("home")
        self._data = self._own_folder("data")
        self._numbers = itertools.count(1)
        self._write_configuration()

    def _write_configuration(self) -> None:
        (self.folder / "rabbitmq.conf").write_text(
            f"""
listeners.tcp.default = {self.host}:{self.port}
default_user = {self.user}
default_pass = {self.password}
loopback_users = none
log.console = true
log.console.level = info
log.file = false
vm_memory_high_watermark.absolute = 512MiB
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 67108864
"""
        )
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "environment.conf").touch()

    def _command(self) -> Sequence[str]:
        return [str(_PROGRAM)]

    def _environment(self) -> Mapping[str, str]:
        folder = self.folder
        addresses = f"-kernel inet_dist_use_interface {{127,0,0,1}} -setcookie {self._cookie}"
        return {
            "HOME": str(self._home),
            "ERL_EPMD_PORT": str(self._names_port),
            "ERL_EPMD_ADDRESS": self.host,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._nodes_port),
            "RABBITMQ_MNESIA_BASE": str(self._data),
            "RABBITMQ_LOG_BASE": str(self._data),
            "RABBITMQ_PID_FILE": str(self._data / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "environment.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self._data / "config"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(self._data / "feature_flags"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_QUIET_VM} {addresses}",
        }

    def _answers(self) -> bool:
        # The door opens last in the start, after every queue has been recovered.
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1) as door:
            door.settimeout(2)
            door.sendall(b"AMQP\x00\x00\x09\x01")
            return bool(door.recv(1))
        return False

    def kill(self) -> None:
        """SIGKILL to all of its processes.

        A lone node that dies within seconds of a queue's declaration never opens that quorum queue again: which queues
        it has, it writes to disk only now and then. In a cluster the others would know. No test is about that, so the
        list is written before; messages are on disk anyway once they are confirmed.
        """
        if self.is_running and not self.is_paused:
            self.evaluate("[ok = dets:sync(Table) || Table <- dets:all()]")
        super().kill()

    def evaluate(self, erlang: str) -> str:
        """What an Erlang expression gives, in the node."""
        answer = self._run("erl_call", "-sname", self.node, "-c", self._cookie, "-e", stdin=f"{erlang}.\n")
        assert answer.startswith("{ok, "), f"{erlang}: {answer}"
        return answer.removeprefix("{ok, ").removesuffix("}")

    def fresh_vhost(self) -> str:
        """The name of a new, empty virtual host, in which `app` may do everything."""
        name = f"test-{next(self._numbers)}-{secrets.token_hex(3)}"
        by = '<<"tests">>'
        self.evaluate(
            f"ok = rabbit_vhost:add({_binary(name)}, {by}), "
            f"rabbit_auth_backend_internal:set_permissions({_binary(self.user)}, {_binary(name)}, "
            f'<<".*">>, <<".*">>, <<".*">>, {by})'
        )
        return name

    def queue_depth(self, vhost: str, queue: str) -> int:
        """How many messages a queue holds that wait for a consumer; those on their way to one are not counted."""
        found = self.evaluate(
            f"{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r({_binary(vhost)}, queue, {_binary(queue)})), "
            "{ok, Depth, _} = rabbit_amqqueue:stat(Q), Depth"
        )
        return int(found)

    def messages_in(self, vhost: str, queue: str) -> int:
        """How many messages a queue holds, those that are with a consumer too. Up to five seconds late."""
        found = self.evaluate(
            f"{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r({_binary(vhost)}, queue, {_binary(queue)})), "
            "proplists:get_value(messages, rabbit_amqqueue:info(Q, [messages]))"
        )
        return int(found)

    def wait_for_queue_depth(self, vhost: str, queue: str, depth: int, within_seconds: float = 10) -> None:
        wait_until(
            lambda: self.queue_depth(vhost, queue) == depth, f"{queue} holds {depth} messages", within_seconds, 0.05
        )

    def declared(self, vhost: str) -> dict[str, list[dict[str, Any]]]:
        """What stands in a virtual host, as `rabbitmqctl list_exchanges`, `list_queues` and `list_bindings` tell it."""
        text = self.evaluate(
            "Plain = fun({resource, _, _, Name}) -> Name; "
            "(Table) when is_list(Table) -> maps:from_list([{Key, Value} || {Key, _, Value} <- Table]); "
            "(Value) -> Value end, "
            "All = fun(Kind, Items) -> [maps:from_list([{Key, Plain(Value)} || {Key, Value} <- Info]) "
            f"|| Info <- Kind:info_all({_binary(vhost)}, Items)] end, "
            "binary_to_list(rabbit_json:encode(#{"
            "exchanges => All(rabbit_exchange, [name, type, durable, auto_delete, internal, arguments]), "
            "queues => All(rabbit_amqqueue, [name, durable, auto_delete, arguments]), "
            "bindings => All(rabbit_binding, [source_name, destination_name, destination_kind, routing_key, arguments])"
            "}))"
        )
        declared: dict[str, list[dict[str, Any]]] = json.loads(text.strip(chr(34)))
        return {kind: sorted(each, key=str) for kind, each in declared.items()}

    def raise_memory_alarm(self) -> None:
        """From now on it takes no messages, and tells publishers that they are blocked."""
        self.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.0)")

    def clear_memory_alarm(self) -> None:
        self.evaluate("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 536870912})")

    def connections(self, vhost: str) -> dict[str, int]:
        """The heartbeat in seconds of each client's connection, by the name that the client gave it."""
        text = self.evaluate(
            "binary_to_list(rabbit_json:encode(maps:from_list([{Name, Seconds} || "
            "[{vhost, V}, {timeout, Seconds}, {client_properties, Told}] <- "
            "rabbit_networking:connection_info_all([vhost, timeout, client_properties]), "
            f'V =:= {_binary(vhost)}, {{<<"connection_name">>, _, Name}} <- Told])))'
        )
        named: dict[str, int] = json.loads(text.strip(chr(34)))
        return named

    def blocked_connections(self, vhost: str) -> int:
        """How many publishers it has stopped reading, because it takes no messages."""
        found = self.evaluate(
            "length([I || I <- rabbit_networking:connection_info_all([vhost, state]), "
            f"I =:= [{{vhost, {_binary(vhost)}}}, {{state, blocked}}]])"
        )
        return int(found)

    def close_connections(self) -> None:
        """The broker closes every client's connection, as an operator may."""
        self.evaluate(
            '[rabbit_networking:close_connection(C, "by a test") || C <- rabbit_networking:connections()], ok'
        )


def _binary(text: str) -> str:
    return f"<<{json.dumps(text)}>>"
