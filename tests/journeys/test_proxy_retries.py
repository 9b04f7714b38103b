"""A click that the proxy in front tried twice, because the first shortener died before it answered, counts once."""

import asyncio
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.backends.cut_proxy import CutProxy
from tests.backends.ports import free_port
from tests.backends.server import Server, ServerMissing
from tests.backends.waiting import wait_until
from tests.journeys.systems import System, all_in_one

# What is said to the two tries of a request is what k8s/base/ingress and the drill say.
_CONFIGURATION = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  upstream shorteners {{ {upstreams} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://shorteners;
      proxy_next_upstream error timeout;
      proxy_next_upstream_tries 2;
      proxy_next_upstream_timeout 2s;
      proxy_set_header X-Edge-Request-Id $request_id;
      proxy_set_header X-Forwarded-For $remote_addr;
    }}
  }}
}}
"""


class Nginx(Server):
    """One that asks the next upstream where the first gave no answer."""

    def __init__(self, upstreams: Sequence[int]) -> None:
        super().__init__("nginx")
        self.port = free_port()
        servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in upstreams)
        self._configuration = self.folder / "nginx.conf"
        self._configuration.write_text(_CONFIGURATION.format(upstreams=servers, port=self.port))

    def _command(self) -> Sequence[str]:
        binary = shutil.which("nginx") or "/usr/sbin/nginx"
        if not Path(binary).exists():
            raise ServerMissing("nginx-light")
        return [binary, "-p", str(self.folder), "-c", str(self._configuration), "-e", "stderr"]

    def _answers(self) -> bool:
        with socket.socket() as asking:
            return asking.connect_ex((self.host, self.port)) == 0


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    made = all_in_one({"TRUSTED_PROXIES": "127.0.0.0/8"})
    try:
        made.start()
        yield made
    finally:
        made.close()


def ids_told(proxy: CutProxy) -> list[bytes]:
    return re.findall(rb"X-Edge-Request-Id: ([0-9a-f]{32})\r\n", proxy.requests)


async def test_a_click_tried_at_a_dying_shortener_and_at_another_is_counted_once(system: System) -> None:
    """The dying one has followed the link and written the event; nobody hears of it, and nginx asks the next."""
    address = httpx.URL(system.shortener)
    clicks = 20
    async with (
        CutProxy("127.0.0.1", address.port or 0) as dying,
        CutProxy("127.0.0.1", address.port or 0) as living,
        httpx.AsyncClient() as client,
    ):
        await client.post(f"{system.shortener}/api/v1/urls", json={"url": "https://example.com/", "code": "cat"})
        with await asyncio.to_thread(started, Nginx([dying.port, living.port])) as nginx:
            for _ in range(clicks):
                dying.cut_after_reply_bytes(0)
                # A visitor's own word is overwritten: were it believed, his second click would be a retry.
                headers = {"X-Edge-Request-Id": "the-visitor-s", "X-Request-Id": "the-visitor-s"}
                answer = await client.get(f"http://127.0.0.1:{nginx.port}/cat", headers=headers)
                assert answer.status_code == 307

        twice = dying.connections_cut
        assert twice >= clicks // 3, "nginx asks each first in turn"
        assert set(ids_told(dying)) < set(ids_told(living)), "both tries of a click have one id"
        assert (len(ids_told(dying)), len(set(ids_told(living)))) == (twice, clicks)
        await asyncio.to_thread(wait_until, lambda: measured(system, "events_retried") == twice, "retries", 10)
        assert measured(system, "events_counted") == clicks
        counts = (await client.get(f"{system.analytics}/api/v1/analytics/cat")).json()
        assert counts["access_count"] == clicks


def started(nginx: Nginx) -> Nginx:
    nginx.start()
    return nginx


def measured(system: System, name: str) -> float:
    text = httpx.get(f"{system.analytics_process.ops_urls[-1]}/metrics").text
    return float(re.findall(rf"^{name}_total ([0-9.]+)$", text, re.MULTILINE)[0])
