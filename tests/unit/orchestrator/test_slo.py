"""An SLO as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.errors import SettingInvalid, SloInvalid
from modelmill.orchestrator.slo import Slo, declared_slo, parse_slo
from modelmill.settings import EnvironmentSettings, Settings


def test_what_is_written_is_meant() -> None:
    assert parse_slo("p99=20ms,qps=2000") == Slo(qps=2000, p99_ms=20)
    assert parse_slo(" qps = 5 , p50=500us,p99=1.5s, errors=0.1% ") == Slo(qps=5, p50_ms=0.5, p99_ms=1500, errors=0.001)
    assert parse_slo("qps=10,errors=0.25").errors == 0.25
    assert parse_slo("qps=10").tightest_ms is None
    assert parse_slo("qps=10,p50=2ms,p99=9ms").tightest_ms == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names the rate"),
        ("p99=20ms", "names the rate"),
        ("qps=2000,p98=20ms", "`p98`"),
        ("qps=2000,qps=1", "twice"),
        ("qps=2000,p99=20", "a time"),
        ("qps=2000,p99=0ms", "a time"),
        ("qps=2000,p99=61s", "a time"),
        ("qps=0", "`qps`"),
        ("qps=fast", "`qps`"),
        ("qps=1e9", "`qps`"),
        ("qps=60000", "`qps`"),
        ("qps=10,errors=101%", "`errors`"),
        ("qps=10,errors=-1", "`errors`"),
        ("2000", "`2000`"),
    ],
)
def test_a_mistake_is_told(text: str, said: str) -> None:
    with pytest.raises(SloInvalid, match="MM420|.") as told:
        parse_slo(text)
    assert said in told.value.what
    assert "p99=20ms,qps=2000" in str(told.value.parts["next"])


SLOS = st.builds(
    Slo,
    qps=st.integers(1, 50_000).map(float),
    p50_ms=st.none() | st.integers(1, 60_000).map(float),
    p99_ms=st.none() | st.integers(1, 60_000).map(float),
    errors=st.integers(0, 100).map(lambda percent: percent / 100),
)


@given(SLOS)
def test_an_slo_survives_being_written(slo: Slo) -> None:
    again = parse_slo(str(slo))
    for name in ("qps", "p50_ms", "p99_ms", "errors"):
        assert getattr(again, name) == pytest.approx(getattr(slo, name))
    assert str(parse_slo("p50=500us,p99=1500ms,qps=10,errors=0.001")) == "p50=0.5ms,p99=1.5s,qps=10,errors=0.1%"


@given(st.text(max_size=60))
def test_any_text_is_an_slo_or_a_mistake(text: str) -> None:
    try:
        found = parse_slo(text)
    except SloInvalid:
        return
    assert 1 <= found.qps <= 50_000


@pytest.mark.parametrize(
    ("harder", "covers"),
    [
        ("p99=20ms,qps=2000", True),
        ("p99=15ms,qps=2500", True),
        ("p50=2ms,p99=20ms,qps=2000", True),
        ("p99=20ms,qps=1999", False),
        ("p99=21ms,qps=2000", False),
        ("p50=2ms,qps=2000", False),
        ("p99=20ms,qps=2000,errors=1%", False),
    ],
)
def test_what_bears_more_bears_less(harder: str, covers: bool) -> None:
    assert parse_slo(harder).covers(parse_slo("p99=20ms,qps=2000")) is covers


def settings_with(slo: str) -> Settings:
    return Settings(root=Path("/"), environments={"prod": EnvironmentSettings(slo=slo)})


def test_an_environment_declares_what_its_models_have_to_bear() -> None:
    assert declared_slo(settings_with("p99=20ms,qps=2000"), "prod") == parse_slo("p99=20ms,qps=2000")
    assert declared_slo(settings_with(""), "prod") is None
    with pytest.raises(SettingInvalid, match=r"environments\.prod\.slo.*p98"):
        declared_slo(settings_with("p98=20ms,qps=2000"), "prod")
