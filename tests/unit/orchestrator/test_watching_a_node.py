"""A command that stays with the node that it has started."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from modelmill.orchestrator.serve import watch
from modelmill.serving.control import NodeInfo


def test_a_signal_is_heard_from_the_moment_in_which_the_command_says_that_it_is_here(tmp_path: Path) -> None:
    missed: list[int] = []
    node = NodeInfo(pid=0, host="127.0.0.1", port=1, environment="dev", workers=1, started_at=datetime.now(UTC))
    before = signal.signal(signal.SIGTERM, lambda number, _: missed.append(number))
    try:
        watch(tmp_path, node, own=False, begin=partial(os.kill, os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert missed == []
