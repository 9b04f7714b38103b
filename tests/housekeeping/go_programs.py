"""Programs of others, so that tests meet the real ones. scripts/go-programs builds them; no test waits for that."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.housekeeping.k8s_tables import CHECKOUT

_SCRIPT = CHECKOUT / "scripts" / "go-programs"


@functools.cache
def built(name: str) -> Path:
    """Where it is. Without it a test is skipped; in CI it fails, where there is a Go that could have built it."""
    done = subprocess.run([_SCRIPT, "--only-if-built", name], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Path(done.stdout.strip())
    how = f"needs {name}: scripts/go-programs   (which needs Go)"
    if os.environ.get("CI") == "true" and shutil.which("go"):
        pytest.fail(how, pytrace=False)
    pytest.skip(how)
