"""The README's transcript, typed in against a running system."""

import json
import re
import subprocess
import time
from pathlib import Path

from tests.journeys.systems import System

README = Path(__file__).parent.parent.parent / "README.md"


def _transcript() -> list[tuple[str, str]]:
    """Commands and what the README says they print."""
    block = re.search(r"```console\n(.*?)```", README.read_text(), re.S)
    assert block
    typed = re.findall(r"^\$ (.*?)\n(.*?)(?=^\$ |\Z)", block[1], re.S | re.M)
    return [(command, printed.strip()) for command, printed in typed]


def _typed(command: str, system: System) -> str:
    for written, real in (("http://127.0.0.1:8080", system.shortener), ("http://127.0.0.1:8081", system.analytics)):
        command = command.replace(written, real)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.replace("\r", "").replace(system.shortener, "http://127.0.0.1:8080").strip()


def _without_chance(text: str) -> str:
    """Ids and times differ from run to run."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    return re.sub(r"(?m)^date: .*$", "date: …", text)


def test_the_transcript_is_what_is_printed(system: System) -> None:
    (create, created), (follow, followed), (count, counted) = _transcript()
    assert _without_chance(_typed(create, system)) == _without_chance(created)
    assert _without_chance(_typed(follow, system)) == _without_chance(followed)
    end = time.monotonic() + 10
    while json.loads(printed := _typed(count, system))["access_count"] < 1:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert _without_chance(printed) == _without_chance(counted)
