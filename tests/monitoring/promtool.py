"""Prometheus' own tool, from Debian's package."""

import shutil
import subprocess
from pathlib import Path

from tests.backends.server import ServerMissing
from tests.conftest import installed


def promtool(*arguments: str | Path) -> str:
    """What it says; an AssertionError with that, where it is not content."""
    with installed():
        found = shutil.which("promtool")
        if found is None:
            raise ServerMissing("prometheus")
    done = subprocess.run([str(found), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
