"""Labels as text: what joined, how late, how good; what is not known is never called well."""

import pytest

from modelmill import outcomes as o
from modelmill.cli.labels import duration
from modelmill.cli.rendering import render

IMPORTED = o.LabelImport(source="late.csv", on="keys,time", within_s=600.0, rows=1_200, new=True, empty=3, repeated=2)
WORSE = o.ChampionVerdict(
    verdict="worse", release=3, before=2, measure="mae", rows=900, own=6.5, other=5.0, low=1.25, high=1.75
)
UNKNOWN = o.ChampionVerdict(verdict="unknown", release=2, before=1, rows=80, why="80 of 300 labelled answers of r2")
PROD = o.LabelledFacts(
    environment="prod",
    answers=2_000,
    labelled=1_000,
    labels=1_200,
    parked=150,
    ambiguous=50,
    corrected=4,
    repeated=0,
    delay_s=3_600.0 * 30,
    delay_p90_s=86_400.0 * 7,
    ages=(o.LabelAge(asked="within a week", answers=2_000, labelled=1_000),),
    releases=(o.ReleaseQuality(release=2, version=2, rows=80, metric="mae", value=5.125),),
    champion=UNKNOWN,
    challenger=WORSE,
)


def text_of(*environments: o.LabelledFacts, imported: o.LabelImport | None = None) -> str:
    return "\n".join(render(o.LabelsOutcome(model="sales", imports=1, environments=environments, imported=imported)))


@pytest.mark.parametrize(
    "said",
    [
        "sales   late.csv   1,200 by keys,time   within 10 min 0 s   3 empty   2 repeated",
        "1,000 of 2,000 answers have a label   50 %   150 parked   50 ambiguous   4 corrected",
        "half within 30.0 h   9 of 10 within 7.0 days",
        "unknown: 80 of 300 labelled answers of r2",
        "r3 is worse   mae 6.5 beside 5 of r2 on the same 900 rows   difference 1.25 to 1.75",
    ],
)
def test_labels_say(said: str) -> None:
    assert said in text_of(PROD, imported=IMPORTED)


def test_without_answers_the_quality_is_unknown() -> None:
    assert "unknown: nothing was logged of its answers" in text_of()


@pytest.mark.parametrize(("seconds", "said"), [(-1.0, "0"), (9_000.0, "2.5 h"), (604_800.0, "7.0 days")])
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds).startswith(said)
