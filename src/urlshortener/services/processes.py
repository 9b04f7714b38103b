"""What each command starts, in which order, and how it ends.

    shortener   links, spool, publisher          :8080
    analytics   source, counts, links to read    :8081
    run         both doors in one process; with in-process:// the source is the spool itself
"""

import asyncio
import contextlib
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from urlshortener import __version__
from urlshortener.errors import StoreUnavailable, WrongSetting
from urlshortener.events.spool import Spool
from urlshortener.events.visitor import Visitors
from urlshortener.links.directory import Directory
from urlshortener.services import backends
from urlshortener.services.analytics import analytics_app
from urlshortener.services.counting import Counting
from urlshortener.services.http import Readiness, ops_app
from urlshortener.services.runner import Door, listen, serve
from urlshortener.services.shortener import shortener_app
from urlshortener.settings import Settings
from urlshortener.telemetry import LOG, set_up_logs, set_up_traces
