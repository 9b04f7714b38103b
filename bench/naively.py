"""What would the obvious ways give: a framework's handler, a message for each event, a transaction for each event?

The same cores and back ends as in the other questions, whose figures these are to be held beside. They keep none of
the promises, so nothing is checked but that they answer.
"""

import asyncio
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.harness import cores
from bench.harness.run import Run
from bench.naive import each_by_itself
from tests.backends.ports import free_port
from tests.backends.server import Server

TITLE = "The obvious ways, to compare"


class _Handler(Server):
    """uvicorn with the handler of naive/handler.py."""

    def __init__(self) -> None:
        super().__init__("naive-handler")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def _command(self) -> Sequence[str]:
        options = f"--port {self.port} --no-access-log --log-level warning --loop uvloop --http httptools".split()
        return [sys.executable, "-m", "uvicorn", "bench.naive.handler:app", *options]

    def _environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(Path(__file__).parent.parent)}

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def ask(run: Run) -> None:
    handler = run.start(_Handler(), what="FastAPI on uvicorn")
    loads = [run.load(handler.url, run.requests()) for _ in run.rounds()]
    run.check("the handler answers", holds=not any(load.errors for load in loads))
    run.figure("FastAPI handler, nothing behind it", "redirects/s", [load.a_second for load in loads])
    run.ran("a message, a transaction for each event", cores.SERVICE)
    rabbitmq, redis = run.rabbitmq(), run.redis()
    vhost = rabbitmq.fresh_vhost()
    url = f"amqp://{rabbitmq.user}:{rabbitmq.password}@{rabbitmq.host}:{rabbitmq.port}/{vhost}"
    with cores.on(cores.SERVICE):
        published = [asyncio.run(each_by_itself.publish(url, run.effort.seconds)) for _ in run.rounds()]
        database = redis.fresh_database()
        how = redis.port, redis.password, database, run.effort.seconds
        counted = [asyncio.run(each_by_itself.count(*how)) for _ in run.rounds()]
    run.figure("a message for each event, confirmed", "events/s", published)
    run.figure("a transaction for each event", "events/s", counted)
