"""Air time of flights out of New York: one model per origin, carrier and destination."""

from datetime import datetime

import numpy as np
import polars as pl
from sklearn.linear_model import Ridge

import modelmill as mm


class Flight(mm.Schema):
    """One row of training data; without its target, one request."""

    origin: str = mm.key(doc="airport of departure")
    carrier: str = mm.key(doc="airline")
    dest: str = mm.key(doc="airport of arrival")
    time_hour: datetime = mm.time(doc="scheduled hour of departure, UTC")
    distance: int = mm.col(ge=1, le=6000, unit="mile", doc="between the airports")
    hour: int = mm.col(ge=0, le=23, unit="h", doc="scheduled hour of departure, local time")
    air_time: float = mm.target(ge=10, le=800, unit="min", nullable=True, doc="null when it was not flown")


air_time = mm.Model(
    "air-time",
    Flight,
    by=[Flight.origin, Flight.carrier, Flight.dest],
    min_rows=30,
    owner="flights@example.com",
    needs=[mm.better("mae", than="mean", by=0.10)],
    gate=[mm.no_worse("mae", than="champion"), mm.better("mae", than="mean", by=0.05)],
    retrain=[mm.every("week"), mm.worse("mae") > 0.10],
    canary=mm.Canary(steps=["2%", "20%", "100%"], of="segments", hold="30m", abort=[mm.error_rate > 0.01]),
)


@air_time.data
def flights(window: mm.Window) -> pl.DataFrame:
    return mm.read("flights", between=window)


@air_time.features
def features(rows: mm.Rows) -> np.ndarray:
    days = (rows.time_hour - rows.time_hour.astype("datetime64[Y]")) / np.timedelta64(1, "D")
    season = 2 * np.pi * days / 365.25  # winds are stronger in winter
    return np.column_stack([rows.distance, rows.hour, np.sin(season), np.cos(season)])


@air_time.train
def train(x: np.ndarray, y: np.ndarray, alpha: float = 1.0) -> Ridge:
    return Ridge(alpha=alpha).fit(x, y)


@air_time.test
def leaving_an_hour_later_changes_little(ask: mm.Ask) -> None:
    assert abs(ask(hour=16) - ask(hour=15)) < 60  # the rest: this segment's typical row
