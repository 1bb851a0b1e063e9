"""`stores5k`: a seeded fleet of stores with five features, three regions, and faults planted on request.

``python bench/stores5k.py FOLDER --stores 5000 --rows 200 --faults 50`` writes a project that `modelmill up` runs;
`truth.json` beside it says which store was given which fault.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

KINDS = ("raise", "nan", "hang", "memory", "exit", "print")
REGIONS = ("north", "south", "west")
_TOML = """model = "stores.py"

[connections.rows]
dev = "rows.parquet"

[build]
segment_timeout_s = {timeout}
worker_memory_mb = {memory}
"""


def make_rows(stores: int, rows: int, seed: int = 0) -> pl.DataFrame:
    """Return `stores` x `rows` rows; each store has coefficients of its own around its region's."""
    rng = np.random.default_rng(seed)
    total = stores * rows
    x = rng.normal(size=(total, 4))
    weekday = np.tile(np.arange(rows) % 7, stores)
    owner = np.repeat(np.arange(stores), rows)
    region = rng.normal([-3, 2, 1, 1], 1, size=(len(REGIONS), 4))[owner % len(REGIONS)]
    own = rng.normal(0, 1, size=(stores, 4))[owner]
    level = rng.normal(100, 20, size=stores)[owner]
    sales = level + ((region + own) * x).sum(axis=1) + 2 * weekday + rng.normal(0, 2, total)
    at = np.datetime64(datetime(2025, 1, 1), "us") + np.tile(np.arange(rows), stores) * np.timedelta64(1, "D")  # noqa: DTZ001
    names = np.array([f"{REGIONS[s % len(REGIONS)]}-{s:05d}" for s in range(stores)], dtype=object)
    columns = {"price": x[:, 0], "footfall": x[:, 1], "weekday": weekday, "promo": x[:, 2], "weather": x[:, 3]}
    return pl.DataFrame({"store": names[owner], "at": at, **columns, "sales": sales})


def plant(names: list[str], count: int, seed: int = 0, kinds: Iterable[str] = KINDS) -> dict[str, str]:
    """Return store -> fault for `count` stores, the kinds in turn."""
    chosen = np.random.default_rng(seed).choice(names, size=count, replace=False)
    known = tuple(kinds)
    return {str(name): known[place % len(known)] for place, name in enumerate(chosen)}


def write_project(  # noqa: PLR0913 - keywords
    folder: Path,
    *,
    stores: int,
    rows: int,
    faults: dict[str, str] | None = None,
    timeout: float = 2.0,
    memory: int = 1024,
    family: str = "",
) -> pl.DataFrame:
    """Write a project that builds the fleet; return its rows. The family `linear` has a model file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    if family == "linear":
        shutil.copy(here / "stores" / "linear.py", folder / "stores.py")
    else:
        shutil.copy(here / "stores" / "stores.py", folder)
        shutil.copy(here / "families.py", folder)
    (folder / "modelmill.toml").write_text(_TOML.format(timeout=timeout, memory=memory))
    frame = make_rows(stores, rows)
    frame.write_parquet(folder / "rows.parquet")
    write_faults(folder, faults or {})
    return frame


def write_faults(folder: Path, faults: dict[str, str]) -> None:
    """Plant these faults; the model file reads them."""
    (folder / "faults.json").write_text(json.dumps(faults))


def main() -> None:
    """Write a project from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stores", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--faults", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = make_rows(options.stores, 1)["store"].to_list()
    faults = plant(names, options.faults, options.seed)
    write_project(options.folder, stores=options.stores, rows=options.rows, faults=faults)
    (options.folder / "truth.json").write_text(json.dumps(faults, indent=1))


if __name__ == "__main__":
    main()
