"""Debian's nginx: the measure that redirects are held against, and a proxy in front."""

import shutil
from collections.abc import Mapping, Sequence

from tests.backends.ports import free_port
from tests.backends.server import Server, ServerMissing

_PROGRAM = "/usr/sbin/nginx"

_COMMON = """
daemon off;
worker_processes {processes};
pid {folder}/pid;
error_log {folder}/error.log warn;
{user}
events {{ worker_connections 8192; }}
http {{
  client_body_temp_path {folder}/temp; proxy_temp_path {folder}/temp; fastcgi_temp_path {folder}/temp;
  uwsgi_temp_path {folder}/temp; scgi_temp_path {folder}/temp;
  server_tokens off;
  keepalive_timeout 75s;
  keepalive_requests 1000000000;
  log_format main '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent '
                  '"$http_referer" "$http_user_agent" "$http_x_forwarded_for"';
"""

_REDIRECTS = """
  map_hash_max_size 4194304;
  map_hash_bucket_size 128;
  map $uri $target {{ include {folder}/links; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    access_log {folder}/access.log main;
    location / {{
      add_header Cache-Control "private, no-store";
      add_header X-Robots-Tag noindex;
      if ($target) {{ return 307 $target; }}
      return 404;
    }}
  }}
}}
"""

_PROXY = """
  upstream behind {{ server {behind}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    access_log {folder}/access.log main;
    location / {{
      proxy_pass http://behind;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Request-ID $request_id;
      proxy_set_header X-Edge-Request-Id $request_id;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $http_x_forwarded_for;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-Port $server_port;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Scheme $scheme;
    }}
  }}
}}
"""


class _Nginx(Server):
    """One worker if no other number is named, with its access log on as nginx' own example has it."""

    def __init__(self, name: str, how: str, processes: int = 1, **words: str) -> None:
        if not shutil.which(_PROGRAM):
            raise ServerMissing("nginx-light")
        super().__init__(name)
        self._processes = processes
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.configuration = self.folder / "nginx.conf"
        words |= {"folder": str(self.folder), "port": str(self.port), "processes": str(processes), "user": "user root;"}
        self.configuration.write_text((_COMMON + how).format(**words))

    def _command(self) -> Sequence[str]:
        return [_PROGRAM, "-e", str(self.folder / "error.log"), "-c", str(self.configuration)]

    def _answers(self) -> bool:
        return (self.folder / "pid").exists() and len(self.pids) > self._processes  # these, and their master

    @property
    def answered(self) -> int:
        """How many requests it has answered, as its log says."""
        with (self.folder / "access.log").open("rb") as log:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: log.read(1 << 20), b""))

    def forget(self) -> None:
        """Empty the log: it is on the same disk as everything else."""
        (self.folder / "access.log").open("wb").close()


class RedirectingNginx(_Nginx):
    """`map` and `return`: what a redirect costs at the least, its line in a log included."""

    def __init__(self, targets: Mapping[str, str], name: str = "nginx") -> None:
        super().__init__(name, _REDIRECTS)
        (self.folder / "links").write_text("".join(f"/{code} '{target}';\n" for code, target in targets.items()))


class ProxyingNginx(_Nginx):
    """A proxy before another server, with connections to it that are kept."""

    def __init__(self, url: str, name: str = "nginx as proxy", processes: int = 1) -> None:
        super().__init__(name.replace(" ", "-"), _PROXY, processes, behind=url.removeprefix("http://"))
