"""Sends spans to an OpenTelemetry collector, over OTLP/gRPC. Imported only where there is one."""

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from urlshortener.telemetry.logs import LOG
from urlshortener.telemetry.metrics import SPANS_LOST, SPANS_SENT
from urlshortener.telemetry.traces import trace_with
from urlshortener.telemetry.wire import Messages, Over

# What the exporters complain of is counted here, and said once a minute.
logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

_MOST_WAITING = 8192  # spans; those above are lost, and counted
_MOST_OF_A_MESSAGE = 2048  # some 400 KB: a collector takes 4 MB, and each message costs as much as many spans
_GATHER_SECONDS = 1.0
_EXPORT_SECONDS = 10  # tries again within, so that a collector that is being rolled is waited for
_GOODBYE_SECONDS = 1.0
_COMPLAIN_SECONDS = 60.0
_SCOPE = InstrumentationScope("urlshortener")


def resource(service: str, version: str) -> Resource:
    """Who sends: this process, of this service."""
    return Resource.create(
        {
            "service.namespace": "url-shortener",
            "service.name": service,
            "service.version": version,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        }
    )


def send_traces(endpoint: str, resource: Resource) -> Callable[[], None]:
    """Send spans from now on; returns what sends the last of them and ends it, within 1 s.

    All that are made are sent: which requests are traced was decided at the door (services/traced.py).
    """
    provider = TracerProvider(resource=resource, sampler=ALWAYS_ON, shutdown_on_exit=False)
    sender = Sender(_Exporter(endpoint, Messages(resource, _SCOPE)))
    provider.add_span_processor(sender)
    trace_with(provider.get_tracer(_SCOPE.name), sender.on_end)

    def end() -> None:
        trace_with(None)
        sender.shutdown()

    return end


class _Exporter(OTLPSpanExporter):
    """The SDK's, with its connection, its deadline and its retries; only what it sends is put together by us."""

    def __init__(self, endpoint: str, messages: Messages) -> None:
        super().__init__(endpoint, insecure=endpoint.startswith("http://"), timeout=_EXPORT_SECONDS)
        self._messages = messages

    def _translate_data(self, data: Iterable[Over]) -> ExportTraceServiceRequest:
        return self._messages.of(data)


class Sender(SpanProcessor):
    """Gathers spans that have ended, for a thread of its own that sends them.

    A collector that is away, slow, or never answers costs spans and nothing else: whoever ends a span only appends it
    to a queue, and when that is full, counts it as lost. (The SDK's own processor does the same, but says in the log
    what it drops and not in a metric, and ends when it likes.)
    """

    def __init__(self, exporter: _Exporter) -> None:
        self._exporter = exporter
        self._waiting: deque[Over] = deque()
        self._wanted = threading.Event()
        self._is_over = False
        self._complained = float("-inf")
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def on_end(self, span: Over) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            SPANS_LOST.inc()
            return
        self._waiting.append(span)
        if len(self._waiting) == _MOST_OF_A_MESSAGE:
            self._wanted.set()  # who is sending already looks again before he waits

    def _run(self) -> None:
        while not self._is_over:
            self._wanted.wait(_GATHER_SECONDS)
            self._wanted.clear()
            while self._waiting:
                self._send([self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_OF_A_MESSAGE))])

    def _send(self, spans: list[Over]) -> None:
        try:
            sent = self._exporter.export(spans) is SpanExportResult.SUCCESS  # type: ignore[arg-type]
        except Exception:  # whatever it is, the next ones may arrive
            sent = False
        if sent:
            SPANS_SENT.inc(len(spans))
        else:
            SPANS_LOST.inc(len(spans))
            self._complain(len(spans))

    def _complain(self, spans: int) -> None:
        if time.monotonic() - self._complained > _COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            LOG.warning("spans_lost", extra={"spans": spans, "why": "the collector did not take them in time"})

    def shutdown(self) -> None:
        self._is_over = True
        self._wanted.set()
        self._thread.join(_GOODBYE_SECONDS)
        self._exporter.shutdown()
        SPANS_LOST.inc(len(self._waiting))

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return not self._waiting
