"""Sales of each store: one small model a store, of whichever family the parameter names."""

from __future__ import annotations

import ctypes
import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

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
    return make(family).fit(x, y)


@sales.test
def a_higher_price_sells_less(ask: mm.Ask) -> None:
    assert ask(price=2.0) <= ask(price=-2.0) + 40


def make(family: str) -> Any:
    """Return an estimator that is not fitted yet."""
    if family == "lightgbm":
        from lightgbm import LGBMRegressor

        return LGBMRegressor(n_estimators=30, num_leaves=15, n_jobs=1, verbose=-1)
    if family == "hgb":
        from sklearn.ensemble import HistGradientBoostingRegressor

        return HistGradientBoostingRegressor(max_iter=30, max_leaf_nodes=15, early_stopping=False)
    from sklearn.linear_model import Ridge

    return Ridge(alpha=1.0)


def misbehave(fault: str | None) -> None:
    """Do what was planted for this store."""
    if fault == "raise":
        raise ValueError("the prices of this store are not plausible")
    if fault == "hang":
        time.sleep(3600)
    if fault == "spin":
        ctypes.CDLL(None).usleep(2_000_000_000)
    if fault == "memory":
        held = []
        while True:
            held.append(np.ones(4 << 20))
            time.sleep(0.01)
    if fault == "exit":
        os._exit(7)
    if fault == "print":
        for _ in range(100_000):
            print("x" * 1000)


@sales.predict
def predict(model: Any, x: np.ndarray, segment: tuple[str, ...]) -> np.ndarray:
    answers = model.predict(x)
    return answers * np.nan if segment and FAULTS.get(segment[0]) == "nan" else answers
