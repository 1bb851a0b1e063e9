"""The demo's flights with whichever family the parameter names: its functions serve two declarations."""

from __future__ import annotations

from typing import Any

import numpy as np
from airtime import Flight, features, flights, leaving_an_hour_later_changes_little
from families import estimator

import modelmill as mm

routes = mm.Model(
    "routes", Flight, by=[Flight.carrier, Flight.flight, Flight.dest], min_rows=20, owner="flights@example.com"
)
routes.data(flights)
routes.features(features)
routes.test(leaving_an_hour_later_changes_little)


@routes.train
def train(x: np.ndarray, y: np.ndarray, family: str = "ridge") -> Any:
    return estimator(family).fit(x, y)
