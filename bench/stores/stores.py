"""Sales of each store: one small model a store, of whichever family the parameter names."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from families import estimator

import modelmill as mm

FAULTS: dict[str, str] = {}
_PLANTED = Path(__file__).with_name("faults.json")
if _PLANTED.exists():
    FAULTS = json.loads(_PLANTED.read_text())


class Sale(mm.Schema):
    """One day of one store."""

    store: str = mm.key()
    at: datetime = mm.time()
    price: float = mm.col(ge=-50, le=50)
    footfall: float = mm.col(ge=-50, le=50)
    weekday: int = mm.col(ge=0, le=6)
    promo: float = mm.col(ge=-50, le=50)
    weather: float = mm.col(ge=-50, le=50)
    sales: float = mm.target()


sales = mm.Model("sales", Sale, by=[Sale.store], min_rows=20, owner="stores@example.com")


@sales.data
def rows(window: mm.Window) -> pl.DataFrame:
    return mm.read("rows", between=window)


@sales.train
def train(x: np.ndarray, y: np.ndarray, segment: tuple[str, ...], family: str = "ridge") -> Any:
    misbehave(FAULTS.get(segment[0]) if segment else None)
    return estimator(family).fit(x, y)


@sales.test
def a_higher_price_sells_less(ask: mm.Ask) -> None:
    assert ask(price=2.0) <= ask(price=-2.0) + 40


def misbehave(fault: str | None) -> None:
    """Do what was planted for this store."""
    _FAULTS.get(fault or "", lambda: None)()


def _raise() -> None:
    raise ValueError("the prices of this store are not plausible")


def _grow() -> None:
    held = []
    while True:
        held.append(np.ones(4 << 20))
        time.sleep(0.01)


def _print() -> None:
    for _ in range(100_000):
        print("x" * 1000)


def _be_killed_once() -> None:
    marker = Path(".killed")
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


_FAULTS: dict[str, Callable[[], object]] = {
    "raise": _raise,
    "hang": lambda: time.sleep(3600),
    "spin": lambda: ctypes.CDLL(None).usleep(2_000_000_000),
    "memory": _grow,
    "exit": lambda: os._exit(7),
    "crash": lambda: ctypes.string_at(0),
    "killed once": _be_killed_once,
    "print": _print,
}


@sales.predict
def predict(model: Any, x: np.ndarray, segment: tuple[str, ...]) -> np.ndarray:
    answers = model.predict(x)
    return answers * np.nan if segment and FAULTS.get(segment[0]) == "nan" else answers
