"""Our processes, pinned; what their metrics say; and what they left on disk and in the queue."""

import asyncio
import shutil
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bench.harness import cores
from tests.backends.rabbitmq import Rabbitmq
from tests.backends.server import Server
from tests.journeys.systems import Process
from urlshortener.events.amqp import AmqpSource, Broker, Topology
from urlshortener.events.event import EventId
from urlshortener.events.spool import Spool
from urlshortener.services.worker import REPORT_SECONDS

_ESTABLISHED = "01"  # as /proc/net/tcp has it
TRUSTED = {"TRUSTED_PROXIES": "127.0.0.0/8"}


class Lost(AssertionError):
    """Something was lost, doubled or refused: whatever was measured, it was not the product."""


def start(server: Server, *on: int) -> None:
    """Start it on one core, or on those, where all of its threads and children stay."""
    with cores.on(*(on or (cores.SERVICE,))):
        server.launch()
    server.wait_until_it_answers()


class Service(Process):
    """One of our processes, with a folder for its spool; it believes the loopback proxies."""

    def __init__(self, command: str, settings: Mapping[str, str], workers: int = 1) -> None:
        super().__init__(command, {**TRUSTED, **settings})
        self.workers = workers

    def _command(self) -> Sequence[str]:
        return [*super()._command(), *(("--workers", str(self.workers)) if self.workers > 1 else ())]

    @property
    def spool(self) -> Path:
        return self.folder / "data" / "spool"

    def metrics(self) -> dict[str, float]:
        """All samples of its second port, by name and labels."""
        with urllib.request.urlopen(f"{self.ops_urls[0]}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[:1] != "#"}

    @property
    def redirected(self) -> int:
        """How many visitors it has sent on, once it is through with all that were sent to it."""
        before, now = -1, self._redirected()
        while before != now:
            time.sleep(0.2 if self.workers == 1 else 2 * REPORT_SECONDS)
            before, now = now, self._redirected()
        return now

    def _redirected(self) -> int:
        return int(self.metrics().get('redirects_total{outcome="found"}', 0))

    @property
    def is_all_confirmed(self) -> bool:
        """Whether the broker has confirmed every event that was spooled."""
        metrics = self.metrics()
        return metrics.get("events_confirmed_total", 0) == metrics.get("events_spooled_total", 0)

    @property
    def memory_bytes(self) -> int:
        """What is resident, shared libraries included."""
        return sum(_resident(pid) for pid in self.pids)

    @property
    def pid(self) -> int:
        """Of the one process that it is."""
        [pid] = self.pids
        return pid


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024


def processor_seconds(pid: int) -> float:
    """How long a process has been on a core, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def connections(pid: int, url: str) -> int:
    """How many connections to that address a process has open."""
    port = f":{urlsplit(url).port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(port) and row[3] == _ESTABLISHED}
    return len(sockets & {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()})


def events_in_spool(folder: Path) -> int:
    """How many events a stopped process has left there; Lost if two have one identity. They are gone afterwards."""
    return asyncio.run(_drain_spool(folder))


async def _drain_spool(folder: Path) -> int:
    spool = Spool(folder, max_bytes=1 << 40)
    seen: dict[str, set[int]] = {}
    count = 0
    while spool.unsent:
        batch = await spool.take(256)
        numbers = seen.setdefault(batch.epoch, set())
        numbers.update(range(batch.first_seq, batch.first_seq + batch.count))
        count += batch.count
        spool.done(batch)
    spool.close()
    if count != sum(map(len, seen.values())):
        raise Lost(f"{count} events in the spool, and some of them twice")
    shutil.rmtree(folder, ignore_errors=True)
    return count


def broker_of(rabbitmq: Rabbitmq, vhost: str) -> Broker:
    return Broker(((rabbitmq.host, rabbitmq.port),), rabbitmq.user, rabbitmq.password, vhost)


def events_in_queue(broker: Broker, expected: int, within_seconds: float = 60) -> int:
    """How many events wait in the queue; Lost if one is there twice. They are gone afterwards."""
    return asyncio.run(_drain_queue(broker, expected, within_seconds))


async def _drain_queue(broker: Broker, expected: int, within_seconds: float) -> int:
    """Until as many are there as are expected, and half a second more, in which too many would come."""
    seen: set[tuple[str, int] | str] = set()
    count = 0
    source = AmqpSource(broker, Topology())
    give_up_at = time.monotonic() + within_seconds
    async with source.deliveries() as deliveries:
        while True:
            patience = 0.5 if len(seen) >= expected else max(0.1, give_up_at - time.monotonic())
            try:
                async with asyncio.timeout(patience):
                    delivery = await anext(deliveries)
            except TimeoutError:
                break
            count += len(delivery.events)
            for event in delivery.events:
                seen.add((event.id.epoch, event.id.seq) if isinstance(event.id, EventId) else event.id)
            delivery.acknowledge()
    await source.close()
    if count != len(seen):
        raise Lost(f"{count} events in the queue, and some of them twice")
    return count
