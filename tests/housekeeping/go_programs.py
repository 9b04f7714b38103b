"""Programs of others, built from the Go modules that tests/programs/go.mod pins, so that tests meet the real ones."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.housekeeping.k8s_tables import CHECKOUT

_MODULE = CHECKOUT / "tests" / "programs"


@functools.cache
def built(package: str) -> Path:
    """The program of a package. Skips the test where no Go is at hand that could build it.

    It lies in .venv, so it is built once; Go looks whether there is anything to do, which takes a second.
    """
    go, wanted = shutil.which("go"), _wanted()
    if go is None or _version(go) < wanted:
        pytest.skip(f"needs Go {'.'.join(map(str, wanted))} or newer, to build {package}: https://go.dev/dl/")
    program = Path(sys.prefix) / "bin" / package.rpartition("/")[2]
    environment = {**os.environ, "GOFLAGS": "-mod=readonly"}
    done = subprocess.run(
        [go, "build", "-o", str(program), package],
        cwd=_MODULE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if done.returncode:
        pytest.fail(f"go build {package} (in {_MODULE.relative_to(CHECKOUT)}): {done.stderr}", pytrace=False)
    return program


def _wanted() -> tuple[int, ...]:
    found = re.search(r"^go (\S+)$", (_MODULE / "go.mod").read_text(), re.MULTILINE)
    assert found
    return _numbers(found[1])


def _version(go: str) -> tuple[int, ...]:
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True, cwd="/").stdout
    return _numbers(said.strip().removeprefix("go"))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
