"""Files that claim to be models: whatever they hold, their reader says no, or ends alone."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lightgbm
import msgspec
import numpy as np
import polars as pl
import pytest
import xgboost

from modelmill.orchestrator.foreign import LIGHTGBM, SKOPS, XGBOOST, Found, Question


class _Bomb:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.place, "opened")


class Files(NamedTuple):
    """One good file of each kind, and where others are written."""

    folder: Path
    boost: bytes
    trees: bytes


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("foreign")
    x = np.random.default_rng(0).normal(size=(200, 2))
    booster = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(x, x[:, 0]), 5)
    model = xgboost.XGBRegressor(n_estimators=3, n_jobs=1).fit(x, x[:, 0])
    pl.DataFrame(x, ["a", "b"]).write_parquet(folder / "sample.parquet")
    return Files(folder, booster.model_to_string().encode(), bytes(model.get_booster().save_raw("ubj")))


def opened(files: Files, kind: str, name: str, content: bytes) -> tuple[int, Found | None]:
    """Return how the process ended that opened a file, and what it said of it."""
    file, asked, answer = (files.folder / (name + end) for end in ("", ".asked", ".answer"))
    file.write_bytes(content)
    sample = str(files.folder / "sample.parquet")
    question = Question(kind=kind, place=str(file), folder=str(files.folder), sample=sample)
    asked.write_bytes(msgspec.json.encode(question))
    command = [sys.executable, "-m", "modelmill.orchestrator.foreign", str(asked), str(answer)]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, cwd=files.folder)
    return done.returncode, msgspec.json.decode(answer.read_bytes(), type=Found) if answer.exists() else None


def hostile(files: Files) -> Iterator[tuple[str, str, bytes]]:
    bomb = pickle.dumps(_Bomb(files.folder / "bomb"))
    yield LIGHTGBM, "cut.txt", files.boost[: len(files.boost) // 2]
    yield LIGHTGBM, "huge.txt", files.boost.replace(b"num_leaves=", b"num_leaves=999999999")
    yield LIGHTGBM, "bomb.txt", bomb
    yield XGBOOST, "cut.ubj", files.trees[: len(files.trees) // 2]
    yield XGBOOST, "huge.ubj", files.trees[:40] + b"L\x7f\xff\xff\xff\xff\xff\xff\xff" + files.trees[40:]
    yield XGBOOST, "nested.json", b'{"learner":' + b"[" * 1_000_000
    yield XGBOOST, "bomb.ubj", bomb
    yield SKOPS, "bomb.skops", bomb
    yield SKOPS, "cut.skops", b"PK\x03\x04" + bytes(40)


def test_a_good_file_is_opened(files: Files) -> None:
    for kind, name, content in ((LIGHTGBM, "good.txt", files.boost), (XGBOOST, "good.ubj", files.trees)):
        code, found = opened(files, kind, name, content)
        assert (code, found is not None and found.broken) == (0, "")


def test_a_hostile_file_ends_at_most_its_reader(files: Files) -> None:
    for kind, name, content in hostile(files):
        code, found = opened(files, kind, name, content)
        assert code < 0 if found is None else found.broken, name
    assert not (files.folder / "bomb").exists()
