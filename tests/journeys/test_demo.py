"""What `make demo` says, and that what it says is so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"


@pytest.mark.timeout(600)
def test_the_demo_serves_with_two_workers_and_tells_their_own_pace(
    tmp_path: Path, modelmill: Callable[..., Any]
) -> None:
    folder = tmp_path / "flights"
    shutil.copytree(FLIGHTS, folder, ignore=shutil.ignore_patterns(".modelmill", "data", "__pycache__"))
    done = subprocess.run(
        [sys.executable, "demo.py"], cwd=folder, capture_output=True, text=True, check=False, timeout=500
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    pace = re.search(
        r"node +2 workers, ([\d,]+) requests/s by their own count.*; p50 [\d.e-]+ ms, p99 [\d.e-]+ ms", said
    )
    assert pace is not None, said
    asked = re.search(r"([\d,]+) requests logged", said)
    assert asked is not None, said
    # The log counts by itself: every request of the demo, those that were timed one by one included.
    assert number(asked[1]) > number(pace[1]) > 0
    assert re.search(r"confirmed by 2 worker\(s\)", said)
    assert modelmill("status", "--json", cwd=folder).json["node"] is None  # and it leaves nothing running


def number(text: str) -> int:
    return int(text.replace(",", ""))
