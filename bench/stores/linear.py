"""Sales of each store: one ridge a store, all of them fitted at once; the law is that of `stores.py`."""

from __future__ import annotations

from datetime import datetime

import polars as pl

import modelmill as mm


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
sales.train(mm.linear(alpha=1.0))


@sales.data
def rows(window: mm.Window) -> pl.DataFrame:
    return mm.read("rows", between=window)


@sales.test
def a_higher_price_sells_less(ask: mm.Ask) -> None:
    assert ask(price=2.0) <= ask(price=-2.0) + 40
