"""What keeps a load test from being sent, and how it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelmill.errors import LoadRefused, UsageError
from modelmill.names import ModelName
from modelmill.orchestrator.loadtest import _check_calm, _model_and_version
from modelmill.release.policy import Policy
from modelmill.release.rollouts import DONE, begin, change, open_rollout
from modelmill.release.rows import lock_environment
from modelmill.settings import load_settings
from modelmill.store.opening import open_store
from modelmill.store.tables import now

SALES = ModelName("sales")


def test_no_load_is_sent_while_a_canary_is_judged(tmp_path: Path) -> None:
    with open_store(load_settings(tmp_path, {})) as store:
        with store.database.write() as c:
            lock_environment(c, "prod")
            begin(c, "prod", SALES, candidate=2, before=1, policy=Policy((0.1, 1.0)), by="ann")
        with pytest.raises(LoadRefused, match="a canary of `sales` is under way in prod"):
            _check_calm(store, "prod", SALES)
        _check_calm(store, "dev", SALES)
        _check_calm(store, "prod", ModelName("stock"))
        with store.database.write() as c:
            running = open_rollout(c, "prod", SALES)
            assert running is not None
            change(c, running, state=DONE, ended_at=now())
        _check_calm(store, "prod", SALES)


@pytest.mark.parametrize(
    ("text", "found"), [(None, (None, None)), ("sales", ("sales", None)), ("sales@3", ("sales", 3)), ("@3", (None, 3))]
)
def test_a_version_is_named_behind_its_model(text: str | None, found: tuple[str | None, int | None]) -> None:
    assert _model_and_version(text) == found


@pytest.mark.parametrize("text", ["sales@x", "sales@-1", "sales@1.5"])
def test_what_is_no_version_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="names no version"):
        _model_and_version(text)
