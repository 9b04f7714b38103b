"""The scripts that people and CI share: what they say where something is not there."""

import hashlib
import shutil
import subprocess
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


def run(home: Path, *command: str | Path, path: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{path}:/usr/bin:/bin", "HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("wanted", ["1.9", "1.100", "1.100.3"])
def test_the_first_go_that_is_recent_enough_is_found(tmp_path: Path, wanted: str) -> None:
    pretended(tmp_path / "old", "go", "echo go1.8.9")
    recent = pretended(tmp_path / "recent", "go", "echo go1.100.3")
    done = run(tmp_path, CHECKOUT / "scripts" / "go-at-least", wanted, path=f"{tmp_path / 'old'}:{recent.parent}")
    assert (done.returncode, done.stdout.strip()) == (0, str(recent))


def test_where_no_go_is_recent_enough_the_step_is_skipped_and_says_what_there_is(tmp_path: Path) -> None:
    old = pretended(tmp_path / "old", "go", "echo go1.8.9")
    done = run(tmp_path, CHECKOUT / "scripts" / "go-at-least", "1.1000", path=old.parent)
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
    done = run(checkout, checkout / ".ci" / "run", path=tools)
    assert (done.returncode != 0) is fails
    assert summary in done.stdout.splitlines()


@pytest.fixture
def set_up(tmp_path: Path) -> Path:
    """A checkout whose .venv holds all that its lock names."""
    folder = tmp_path / "set-up"
    locks = ("requirements-dev.lock", "requirements.lock", "pyproject.toml")
    (folder / "scripts").mkdir(parents=True)
    for name in (*locks, "scripts/setup", "scripts/go-at-least"):
        shutil.copy(CHECKOUT / name, folder / name)
    pretended(folder / ".venv" / "bin", "python", "exit 1")
    held = hashlib.sha256(b"".join((folder / name).read_bytes() for name in locks)).hexdigest()
    (folder / ".venv" / ".holds-requirements-dev.lock").write_text(held)
    return folder


@pytest.mark.parametrize(("ci", "ends_with"), [("", 0), ("true", 1)])
def test_what_may_not_be_installed_is_named_with_the_command_and_ends_ci(
    set_up: Path, tmp_path: Path, ci: str, ends_with: int
) -> None:
    few = tmp_path / "few"  # all that a script needs, and neither servers nor apt-get
    pretended(few, "kustomize", "exit 1")
    for program in ("sh", "dirname", "cat", "sha256sum", "cut", "xargs", "ls", "sed", "sort", "head", "grep", "echo"):
        (few / program).symlink_to(str(shutil.which(program)))
    command = [str(few / "sh"), str(set_up / "scripts" / "setup"), "dev", "servers"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": str(few), "HOME": str(tmp_path), "CI": ci}
    )
    assert done.returncode == ends_with, done.stderr
    missing, rest = done.stderr.splitlines()[:2]
    packages = missing.removeprefix("setup: missing: ").partition(". As root: ")[0]
    assert {"redis-server", "curl", "chromium"} <= set(packages.split())
    assert missing.endswith(f". As root: apt-get install --no-install-recommends {packages}")
    assert rest == ("setup: in CI everything must be there" if ci else "setup: what needs it is left out")
