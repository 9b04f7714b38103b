"""Debian's Prometheus, reading the second doors of our processes every second."""

import json
import math
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode, urlsplit

from tests.backends.ports import free_port
from tests.backends.server import Server, ServerMissing


class Prometheus(Server):
    """`urls`: by the name of their job, the second doors that it reads."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        program = shutil.which("prometheus")
        if program is None:
            raise ServerMissing("prometheus")
        self._program = program
        super().__init__("prometheus")
        self.port = free_port()
        jobs = [
            {"job_name": name, "static_configs": [{"targets": [urlsplit(url).netloc]}]} for name, url in urls.items()
        ]
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
        (self.folder / "prometheus.yaml").write_text(json.dumps(config))

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def _command(self) -> Sequence[str]:
        return [
            self._program,
            f"--config.file={self.folder}/prometheus.yaml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address={self.host}:{self.port}",
        ]

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def curve(self, query: str, began: float, ended: float) -> list[tuple[float, float | None]]:
        """A number over time, each second; None where there is none. Times are Unix seconds, those of the curve count
        from `began`."""
        words = urlencode({"query": query, "start": began, "end": ended, "step": 1})
        with urllib.request.urlopen(f"{self.url}/api/v1/query_range?{words}", timeout=30) as answer:
            found = json.load(answer)["data"]["result"]
        values = {float(at): float(value) for at, value in found[0]["values"]} if found else {}
        return [(n, _number(values.get(began + n))) for n in range(int(ended - began) + 1)]


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) or math.isinf(value) else value
