"""Programs of others, so that tests meet the real ones. Scripts build them with Go; no test waits for that."""

import functools
import os
import subprocess
from pathlib import Path

import pytest

_SCRIPTS = Path(__file__).parents[2] / "scripts"
_NO_GO = 77  # what scripts/go-at-least ends with where there is none


@functools.cache
def built(name: str, script: str = "go-programs") -> Path:
    """Where it is. Without it a test is skipped; in CI it fails, where there is a Go that could have built it."""
    command = [str(_SCRIPTS / script), "--only-if-built", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Path(done.stdout.strip())
    how = f"{name}: scripts/{script} builds it. {done.stderr.strip()}"
    if os.environ.get("CI") == "true" and done.returncode != _NO_GO:
        pytest.fail(how, pytrace=False)
    pytest.skip(how)
