"""The OpenTelemetry Collector with the configuration of the manifests, built by scripts/collector."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml  # type: ignore[import-untyped]

from tests.backends.go_programs import built
from tests.backends.ports import free_port
from tests.backends.server import Server

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "k8s" / "backing" / "tracing" / "collector-config.yaml"
MANIFEST = ROOT / "tests" / "backends" / "collector.yaml"


def binary() -> Path:
    """The collector, where scripts/collector has put it."""
    return built("collector", "collector")


class Collector(Server):
    """Sends on to `receiver_port`. Only addresses differ from the manifests."""

    start_seconds = 60.0

    def __init__(self, receiver_port: int) -> None:
        self._binary = binary()
        super().__init__("collector")
        self.port, self.metrics_port, self.own_metrics_port, self.health_port = (free_port() for _ in range(4))
        self._config = self.folder / "config.yaml"
        self._config.write_text(yaml.safe_dump(self._configuration(receiver_port)))

    def _configuration(self, receiver_port: int) -> dict[str, Any]:
        config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
        config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] = f"127.0.0.1:{self.port}"
        config["exporters"]["otlp/jaeger"]["endpoint"] = f"127.0.0.1:{receiver_port}"
        config["exporters"]["prometheus"]["endpoint"] = f"127.0.0.1:{self.metrics_port}"
        config["extensions"]["health_check"]["endpoint"] = f"127.0.0.1:{self.health_port}"
        own = config["service"]["telemetry"]["metrics"]["readers"][0]["pull"]["exporter"]["prometheus"]
        own |= {"host": "127.0.0.1", "port": self.own_metrics_port}
        return config

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def metrics(self) -> str:
        """What Prometheus would read of the services' metrics."""
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics").text

    def own_metrics(self) -> dict[str, float]:
        """What it tells of itself, each number by its name, summed over its labels."""
        lines = httpx.get(f"http://127.0.0.1:{self.own_metrics_port}/metrics").text.splitlines()
        numbers: dict[str, float] = {}
        for line in lines:
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                numbers[name] = numbers.get(name, 0.0) + float(value)
        return numbers

    def _command(self) -> Sequence[str]:
        return [str(self._binary), f"--config={self._config}"]

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.health_port}/").status_code == 200
        except httpx.HTTPError:
            return False
