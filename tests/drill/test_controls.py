"""What the negative controls take away is there to be taken."""

import os
import subprocess
import sys
from pathlib import Path

from drill import checkers
from drill.controls import CONTROLS
from drill.programme import brief, full, short
from drill.unsafe import UNSAFE


def test_each_safety_can_be_taken_away(tmp_path: Path) -> None:
    every = "from drill.unsafe import UNSAFE\nfor take_away in UNSAFE.values(): take_away()"
    environment = {**os.environ, "SPOOL_DIR": str(tmp_path / "spool"), "DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", every], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_each_control_takes_away_what_there_is_and_expects_a_checker_that_there_is() -> None:
    source = Path(checkers.__file__).read_text()
    for control in CONTROLS:
        assert not control.unsafe or control.unsafe in UNSAFE
        assert f'"{control.checker}"' in source


def test_programmes_have_steps_of_different_names_and_each_control_once() -> None:
    for programme in (full, short):
        steps = programme(7)
        assert len({step.name for step in steps}) == len(steps)
        controls = [step.control.name for step in steps if step.control]
        assert sorted(controls) == sorted(control.name for control in CONTROLS)
    kills = [fault.name for step in full(7) if step.name.startswith("kill") for fault in step.faults]
    assert {kills.count(name) for name in set(kills)} == {30}
    assert len(brief(7)) == 4
