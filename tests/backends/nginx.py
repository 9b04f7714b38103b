"""A real nginx in front of whatever a test puts behind it."""

import shutil
import socket
from collections.abc import Sequence

from tests.backends.ports import free_port
from tests.backends.server import Server, ServerMissing

_WHOLE = """
daemon off;
worker_processes 1;
error_log stderr;
pid {folder}/pid;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{inside}
}}
"""


class Nginx(Server):
    """What stands inside `http` is the caller's; `{port}` in it becomes the port to listen on."""

    def __init__(self, inside: str) -> None:
        super().__init__("nginx")
        program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if program is None:
            raise ServerMissing("nginx-light")
        self._program = program
        self.port = free_port()
        self.url = f"http://{self.host}:{self.port}"
        self._configuration = self.folder / "nginx.conf"
        self._configuration.write_text(
            _WHOLE.format(folder=self.folder, inside=inside.replace("{port}", str(self.port)))
        )

    def _command(self) -> Sequence[str]:
        return [self._program, "-p", str(self.folder), "-c", str(self._configuration)]

    def _answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex((self.host, self.port)) == 0
