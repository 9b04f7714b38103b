"""What is told of the system while it runs: metrics, logs and traces, and every name that they use.

metrics.py   counters, gauges and histograms, read at /metrics
logs.py      lines on standard error
traces.py    spans
sampling.py  which requests have spans
sending.py   to a collector
sending_metrics.py  the same of metrics
wire.py      spans as it takes them
"""

from urlshortener.telemetry.logs import *  # noqa: F403 (a room's files are its own business)
from urlshortener.telemetry.metrics import *  # noqa: F403
from urlshortener.telemetry.sampling import *  # noqa: F403
from urlshortener.telemetry.traces import *  # noqa: F403
