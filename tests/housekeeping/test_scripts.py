"""The scripts that people and CI share: what they say where something is not there."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
SKIPPED = 77


def pretended(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def run(*command: str | Path, path: Sequence[Path] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    folders = os.pathsep.join([*map(str, path), "/usr/bin", "/bin"])
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": folders, "HOME": "/nowhere", **environment}
    )


@pytest.mark.parametrize("wanted", ["1.9", "1.100", "1.100.3"])
def test_the_first_go_that_is_recent_enough_is_found(tmp_path: Path, wanted: str) -> None:
    pretended(tmp_path / "old", "go", "echo go1.8.9")
    recent = pretended(tmp_path / "recent", "go", "echo go1.100.3")
    done = run(CHECKOUT / "scripts" / "go-at-least", wanted, path=[tmp_path / "old", recent.parent])
    assert (done.returncode, done.stdout.strip()) == (0, str(recent))


def test_where_no_go_is_recent_enough_the_step_is_skipped_and_says_what_there_is(tmp_path: Path) -> None:
    old = pretended(tmp_path / "old", "go", "echo go1.8.9")
    done = run(CHECKOUT / "scripts" / "go-at-least", "1.1000", path=[old.parent])
    assert (done.returncode, done.stdout) == (SKIPPED, "")
    assert done.stderr.startswith("needs Go 1.1000 or newer (https://go.dev/dl/), here is 1.8.9")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One with .ci/run and steps of the test's own."""
    shutil.copytree(CHECKOUT / ".ci", tmp_path / "checkout" / ".ci")
    for step in ("collector", "go-programs"):
        pretended(tmp_path / "checkout" / "scripts", step, "exit 0")
    return tmp_path / "checkout"


@pytest.mark.parametrize(
    ("step", "make", "fails", "summary"),
    [
        ("exit 0", "exit 0", False, "passed in 0 s: scripts/collector"),
        ("exit 77", "exit 0", False, "skipped: scripts/collector"),
        ("exit 1", "exit 0", True, "FAILED after 0 s: scripts/collector"),
        ("exit 0", "exit 2", True, "FAILED after 0 s: make test"),
    ],
)
def test_ci_takes_no_failure_for_a_step_that_was_skipped(
    checkout: Path, step: str, make: str, fails: bool, summary: str
) -> None:
    pretended(checkout / "scripts", "collector", step)
    tools = pretended(checkout / "tools", "make", f"[ $CI = true ] || exit 9; {make}").parent
    done = run(checkout / ".ci" / "run", path=[tools])
    assert (done.returncode != 0) is fails
    assert summary in done.stdout.splitlines()
