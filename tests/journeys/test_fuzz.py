"""Twenty seconds of coverage-guided fuzzing of whatever reads a request; `make campaign` gives it ten."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "bench" / "fuzz.py"
SECONDS = 20


@pytest.mark.timeout(300)
def test_no_body_is_our_fault_and_both_ways_agree(tmp_path: Path) -> None:
    if find_spec("atheris") is None:
        pytest.skip("optional component missing: atheris")
    command = [sys.executable, str(PROGRAM), "--seconds", str(SECONDS), "--seed", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    ran = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert ran is not None
    assert int(ran[1]) > 1_000
    assert not list(tmp_path.glob("crash-*"))
