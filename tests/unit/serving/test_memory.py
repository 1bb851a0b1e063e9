"""What memory a process takes."""

from __future__ import annotations

import os

import numpy as np

from modelmill.serving.memory import anonymous, of_machine, room_of, share_arenas, share_of, taken_by, trim

MB = 1 << 20


def test_what_a_process_allocates_is_seen_and_given_back() -> None:
    share_arenas()
    before = anonymous()
    some = np.ones(8 * MB)
    assert 60 * MB < anonymous() - before < 80 * MB
    del some
    trim()
    assert anonymous() - before < 30 * MB


def test_a_share_of_memory_is_no_more_than_the_machine_has() -> None:
    assert MB < share_of(os.getpid()) < of_machine()
    assert (taken_by(2**31 - 1), share_of(2**31 - 1)) == (None, 0)


def test_the_room_of_a_worker_is_its_share_less_what_is_held() -> None:
    own = share_of(os.getpid())
    room = room_of(8 << 30, 2, 2**31 - 1)
    assert abs(room - ((4 << 30) - own)) < 20 * MB
    assert room_of(MB, 1, 2**31 - 1) == 16 * MB
    assert room_of(0, 1, 2**31 - 1) < of_machine() // 2
