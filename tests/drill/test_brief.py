"""The drill in brief: six kills lose nothing, and three safeties taken away are noticed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drill.programme import Drill, brief, has_passed
from drill.report import write_report
from tests.conftest import installed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives each server a user of its own, which takes root")

SEED = 4
STEPS = brief(SEED)
REDIRECTS_A_SECOND = 120  # beside other tests; the figures are measured by `make drill`


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    folder: Path = tmp_path_factory.mktemp("drill") / f"brief-{SEED}"
    with installed():
        drill = Drill(folder, STEPS, SEED, print, REDIRECTS_A_SECOND)
        drill.run()
    print(write_report(folder))
    yield {result["step"]: result for result in drill.results}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("step", [step.name for step in STEPS])
def test_nothing_is_lost_or_doubled_and_what_would_be_is_noticed(results: dict[str, dict[str, Any]], step: str) -> None:
    result = results[step]
    assert has_passed(result), (result["words"], result["found"], result["violations"][:10])
