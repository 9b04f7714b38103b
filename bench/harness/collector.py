"""Somebody who takes spans and numbers, and does no more with them; one who is away; and one who never answers."""

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc  # type: ignore[import-untyped]

from tests.backends.ports import free_port
from tests.backends.server import Server

_SERVICES = ("trace.v1.TraceService", "metrics.v1.MetricsService")


class Collector(Server):
    """A healthy one, in a process of its own."""

    def __init__(self) -> None:
        super().__init__("collector")
        self.port = free_port()

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-m", "bench.harness.collector", str(self.port)]

    def _environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
            return True
        return False


@contextlib.contextmanager
def hanging() -> Iterator[str]:
    """The address of one whose kernel takes connections, and who never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def dead() -> str:
    """An address where nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


def _serve(port: int) -> None:
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 64 << 20)])
    take = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")  # an empty answer is: all taken
    for name in _SERVICES:
        of_service = grpc.method_handlers_generic_handler(f"opentelemetry.proto.collector.{name}", {"Export": take})
        server.add_generic_rpc_handlers((of_service,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    threading.Event().wait()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
