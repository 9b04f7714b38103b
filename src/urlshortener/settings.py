"""Every setting: its name, default, meaning and an example, in one table.

The table drives the environment variables, `urlshortener --help`, docs/configuration.md and its test. Settings are
read once, at the edge; the rooms get plain values.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from urlshortener.errors import WrongSetting

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Address:
    """Where a back end is: `scheme://user:password@host1:port,host2:port/path`. Its text never shows the password."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str = field(repr=False)
    path: str  # decoded, without the first slash

    def __str__(self) -> str:
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        secret = ":***" if self.password else ""
        who = f"{self.user}{secret}@" if self.user or secret else ""
        return f"{self.scheme}://{who}{hosts}/{self.path}" if hosts or self.path else f"{self.scheme}://"


_DEFAULT_PORTS = {"postgresql": 5432, "amqp": 5672, "redis": 6379, "redis+sentinel": 26379}
_ADDRESS = re.compile(r"(?P<scheme>[a-z+-]+)://((?P<who>[^/]*)@)?(?P<hosts>[^/]*)(/(?P<path>[^?#]*))?")
_HOST = re.compile(r"(\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]\s]+))(:(?P<port>\d{1,5}))?")


def _address(*schemes: str) -> Callable[[str], Address]:
    def parse(text: str) -> Address:
        match = _ADDRESS.fullmatch(text)
        if not match or match["scheme"] not in schemes:
            raise ValueError(f"an address that begins with {' or '.join(f'{s}://' for s in schemes)}")
        if match["scheme"] in _DEFAULT_PORTS and not match["hosts"]:
            raise ValueError(f"an address with a host, as {match['scheme']}://host/…")
        user, _, password = (match["who"] or "").partition(":")
        return Address(
            match["scheme"],
            tuple(_host(part, match["scheme"]) for part in match["hosts"].split(",") if part),
            unquote(user),
            unquote(password),
            unquote(match["path"] or ""),
        )

    return parse


def _host(text: str, scheme: str) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    port = int(match["port"] or _DEFAULT_PORTS.get(scheme, 0)) if match else 0
    if not match or not 0 < port < 65536:
        raise ValueError("hosts as name, name:port or [v6]:port, several joined by commas")
    return match["v6"] or match["name"], port


_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if not match:
        raise ValueError("a number with a unit: 250ms, 5s, 10m, 24h or 7d")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)(|Ki|Mi|Gi)", text)
    if not match:
        raise ValueError("a whole number of bytes, or with Ki, Mi or Gi behind it")
    return int(match[1]) * int(1024 ** ["", "Ki", "Mi", "Gi"].index(match[2]))


def _count(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _ratio(text: str) -> float:
    if not re.fullmatch(r"[01](\.\d+)?", text) or float(text) > 1:
        raise ValueError("a number from 0 to 1")
    return float(text)


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError("yes or no")
    return text == "yes"


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(" or ".join(word or "nothing" for word in words))
        return text

    return parse


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError("networks joined by commas, as 10.0.0.0/8,fd00::/8") from None


def _web_address(text: str) -> str:
    if text and not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+(/[A-Za-z0-9._~/-]*)?", text):
        raise ValueError("http:// or https:// with a host, as https://s.example")
    return text.rstrip("/")


def _token(text: str) -> str:
    if text and not re.fullmatch(r"[\x21-\x7e]{16,256}", text):
        raise ValueError("16 to 256 printable ASCII characters without blanks")
    return text


def _word(text: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]{1,200}", text):
        raise ValueError("1 to 200 printable ASCII characters without blanks")
    return text


def _header_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", text):
        raise ValueError("the name of a header: 1 to 64 letters, digits and hyphens")
    return text


def _setting(
    default: str, meaning: str, example: str, parse: Callable[[str], Any] = str, *, secret: bool = False
) -> Any:
    return field(
        metadata={"default": default, "meaning": meaning, "example": example, "parse": parse, "secret": secret}
    )


_LINKS = _address("sqlite", "postgresql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process, read from the environment by `Settings.read`.

    An empty variable is as if it were not set. `{DATA_DIR}` in a default stands for that setting. For a secret,
    NAME_FILE may name a file that holds the value.
    """

    # fmt: off
    host: str = _setting("127.0.0.1", "The address both doors listen on. Beyond loopback, ADMIN_TOKEN is required.", "0.0.0.0", _word)
    shortener_port: int = _setting("8080", "The shortener's door. 0 takes a free one.", "80", _count(0, 65535))
    analytics_port: int = _setting("8081", "The analytics door. 0 takes a free one.", "81", _count(0, 65535))
    shortener_ops_port: int = _setting("9090", "The shortener's second door, for probes and metrics; keep it private.", "9090", _count(0, 65535))
    analytics_ops_port: int = _setting("9091", "The analytics' second door, for probes and metrics; keep it private.", "9091", _count(0, 65535))
    public_url: str = _setting("", "Scheme and host that short links begin with; else those of the request.", "https://s.example", _web_address)
    trusted_proxies: tuple[Network, ...] = _setting("", "Networks of proxies whose X-Forwarded-For, -Proto, -Host and traceparent are believed.", "10.0.0.0/8", _networks)
    request_id_header: str = _setting("X-Edge-Request-Id", "The header in which a trusted proxy tells its own id of a request, overwriting what came: nginx' $request_id. A click that the proxy tries at two shorteners is counted once.", "X-Edge-Request-Id", _header_name)
    admin_token: str = _setting("", "What writes and lists must carry as Authorization: Bearer or X-Api-Key.", "a long random word", _token, secret=True)
    data_dir: Path = _setting("data", "The folder of everything that is kept on this machine.", "/var/lib/urlshortener", Path)

    links_url: Address = _setting("sqlite:///{DATA_DIR}/links.db", "Where links are kept: the database that takes writes. Several hosts: the primary is found among them.", "postgresql://app@db1,db2:5432/links", _LINKS, secret=True)
    links_read_url: Address | None = _setting("", "Replicas to read links from; empty: LINKS_URL.", "postgresql://app@db-ro:5432/links", _address("postgresql"), secret=True)
    links_password: str = _setting("", "The password for LINKS_URL and LINKS_READ_URL, when it is not in them.", "…", secret=True)
    events_url: Address = _setting("in-process://", "What carries events from redirect to count.", "amqp://app:secret@mq1,mq2,mq3:5672/%2F", _address("in-process", "amqp"), secret=True)
    events_password: str = _setting("", "The password for EVENTS_URL, when it is not in it.", "…", secret=True)
    events_exchange: str = _setting("events", "The topic exchange that events are published to.", "events", _word)
    events_queue: str = _setting("access_logs", "The quorum queue they are counted from; NAME.dead holds what could not be read.", "access_logs", _word)
    events_routing_key: str = _setting("access.event", "The routing key of an access event.", "access.event", _word)
    stats_url: Address = _setting("sqlite:///{DATA_DIR}/stats.db", "Where accesses are counted.", "redis+sentinel://:secret@s1:26379,s2:26379/mymaster/0", _address("sqlite", "redis", "redis+sentinel"), secret=True)
    stats_password: str = _setting("", "The password for STATS_URL, when it is not in it.", "…", secret=True)

    spool_dir: Path = _setting("{DATA_DIR}/spool", "Where events wait on disk until they are confirmed. One folder may serve several processes of one machine.", "/var/spool/urlshortener", Path)
    spool_mode: str = _setting("local", "When a redirect is answered: `local`, its event is on this disk; `strict`, somebody else has it too (RabbitMQ has confirmed it, or it is counted), else 503 after 5 s.", "strict", _one_of("local", "strict"))
    spool_max_bytes: int = _setting("4Gi", "Above this, redirects go on and events that do not fit are counted as dropped. Keep it below the volume's limit.", "800Mi", _bytes)
    visitor_secret: str = _setting("", "The key that visitors are told apart with; the same on every replica. `run` makes one in DATA_DIR.", "a long random word", _token, secret=True)
    keep_full_address: bool = _setting("no", "Keep visitors' whole addresses in events instead of /24 and /48.", "yes", _yes_or_no)
    referrer_policy: str = _setting(
        "", "The Referrer-Policy of redirects; empty sends none: owners of targets live by referrers.", "no-referrer", _one_of("", "no-referrer", "origin", "strict-origin", "same-origin", "unsafe-url", "no-referrer-when-downgrade", "origin-when-cross-origin", "strict-origin-when-cross-origin")
    )
    stale_max: timedelta = _setting("24h", "How long a known link goes on redirecting while no database can be reached.", "1h", _duration)
    cache_max_bytes: int = _setting("256Mi", "How much memory remembered links may take.", "64Mi", _bytes)
    cache_warm_links: int = _setting("10000", "How many of the newest links are loaded at start.", "0", _count(0, 10_000_000))
    request_id_window: timedelta = _setting("10m", "How long ids of requests are remembered, to count a click once that a proxy tried twice. 0s: not at all.", "30m", _duration)
    request_ids_max: int = _setting("2000000", "How many of them are remembered within that time; what comes beyond is counted without.", "500000", _count(0, 1_000_000_000))
    series_retention: timedelta = _setting("400d", "How long the hourly and daily series reach back. Totals are kept for good.", "90d", _duration)

    drain_delay: timedelta = _setting("0s", "How long a stopping service goes on answering as not ready, so that proxies leave it, before it closes its doors.", "5s", _duration)
    stop_timeout: timedelta = _setting("20s", "How long a stop may take after that: requests are finished, events are sent.", "30s", _duration)
    log_level: str = _setting("info", "debug, info, warning or error.", "debug", _one_of("debug", "info", "warning", "error"))
    access_log: float = _setting("0", "The share of requests that are written to the log, a line each.", "0.01", _ratio)
    otel_exporter_otlp_endpoint: str = _setting("", "The OTLP/gRPC collector that traces and metrics go to; empty: nothing is sent.", "http://otel-collector:4317", _web_address)
    otel_traces_sampler_arg: float = _setting("0.01", "The share of requests that are traced, where the caller did not decide.", "1", _ratio)

    # fmt: on

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Settings":
        """Raise WrongSetting, which names the variable and says what would be right. Opens only the _FILEs it is told of."""
        data_dir = environ.get("DATA_DIR") or next(s.default for s in TABLE if s.name == "DATA_DIR")
        values: dict[str, Any] = {}
        for setting in TABLE:
            text = _text(setting, environ) or setting.default.replace("{DATA_DIR}", data_dir)
            try:
                values[setting.field] = setting.parse(text) if text or setting.parse is not _READ_URL else None
            except ValueError as error:
                shown = "its value" if setting.secret else repr(text)
                raise WrongSetting(f"{setting.name}: {shown} is not {error}.") from None
        for address, password in (
            ("links_url", "links_password"),
            ("links_read_url", "links_password"),
            ("events_url", "events_password"),
            ("stats_url", "stats_password"),
        ):
            if values[password] and values[address]:
                values[address] = dataclasses.replace(values[address], password=values[password])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of the table."""

    name: str  # of the environment variable
    field: str  # of Settings
    default: str
    meaning: str
    example: str
    parse: Callable[[str], Any]
    secret: bool  # may be read from NAME_FILE, is never shown


TABLE = tuple(Setting(name=f.name.upper(), field=f.name, **f.metadata) for f in dataclasses.fields(Settings))
_READ_URL = next(s.parse for s in TABLE if s.name == "LINKS_READ_URL")
_LARGEST_SECRET_FILE = 64 * 1024


def _text(setting: Setting, environ: Mapping[str, str]) -> str:
    text = environ.get(setting.name, "")
    path = environ.get(f"{setting.name}_FILE", "") if setting.secret else ""
    if not path:
        return text
    if text:
        raise WrongSetting(f"{setting.name} and {setting.name}_FILE are both set: keep one.")
    try:
        with Path(path).open("rb") as file:
            return file.read(_LARGEST_SECRET_FILE).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WrongSetting(f"{setting.name}_FILE: {path} cannot be read ({type(error).__name__}).") from None
