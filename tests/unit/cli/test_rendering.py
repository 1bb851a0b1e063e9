"""The answers as text: every kind has its renderer, and says what a person needs."""

import msgspec
import pytest

from modelmill import outcomes as o
from modelmill.api.verbs import VERBS, Verb
from modelmill.cli.local import LOCAL_VERBS, InitOutcome
from modelmill.cli.rendering import RENDERERS, render
from modelmill.testing.samples import sample_plan

SNAPSHOT = o.SnapshotFacts(label="flights@s1", dataset="flights", number=1, digest="5fd1" * 16, rows=60_000)
FAILURE = o.FailureGroup(
    code="MM306", cause="ValueError: bad", count=38, segments=("UA,ORD", "UA,SFO"), where="delays.py:41 train()"
)
TRAIN = o.TrainOutcome(
    model="air-time",
    version=3,
    run=3,
    snapshot=SNAPSHOT,
    counts=o.Counts(segments=396, built=261, failed=38, own=180, pooled=216),
    seconds=6.1,
    platform_ms=0.9,
    comparison=o.Comparison(metric="mae", rows=11_495, own=7.822, pooled=9.685, mean=9.655, unit="min"),
    failures=(FAILURE,),
    pooled_because={"fewer than 30 labelled rows": 97, "its own model is not better": 81},
    laws=(o.LawCount(name="law", asked=261, failed=1),),
    inactive=("retrain: every(week)",),
    next="modelmill up",
)
NODE = o.NodeFacts(url="http://127.0.0.1:8700", pid=7, port=8700, environment="dev", requests=1234)


def text_of(outcome: o.Outcome) -> str:
    return "\n".join(render(outcome))


@pytest.mark.parametrize(
    "said",
    [
        "flights@s1   60,000 rows   sha 5fd15fd1   contract holds",
        "run 3     396 segments   261 built   38 failed   6.1 s",
        "180 by their own model   216 by the pooled one: 97 fewer than 30 labelled rows, 81 its own",
        "mae 7.822 min   pooled model 9.685   mean 9.655   on the same 11,495 test rows",
        "0.9 ms of modelmill per model",
        "law 260/261",
        "38 segments   MM306 ValueError: bad   e.g. UA,ORD, UA,SFO, ...",
        "where  delays.py:41 train()",
        "retrain: every(week) (declared, not active yet)",
    ],
)
def test_a_build_says(said: str) -> None:
    assert said in text_of(TRAIN)


def test_every_answer_ends_in_the_next_command() -> None:
    assert text_of(TRAIN).splitlines()[-1] == "next      modelmill up"


def test_nothing_to_build_is_said_so() -> None:
    idle = msgspec.structs.replace(TRAIN, run=None, failures=(), counts=o.Counts(segments=396, unchanged=396, own=396))
    assert "run       nothing to build   396 segments unchanged   6.1 s" in text_of(idle)
    assert idle.exit_code == 0


def test_a_model_without_segments_has_no_counts() -> None:
    text = text_of(msgspec.structs.replace(TRAIN, counts=o.Counts(segments=0, built=1)))
    assert "one model   1 built" in text
    assert "pooled one" not in text


def test_up_ends_with_a_request_to_try() -> None:
    release = o.ReleaseFacts(environment="dev", number=1, version=3, confirmed=1, workers=1)
    plan = sample_plan(changed=("UA,ORD",), same=3)
    up = o.UpOutcome(train=TRAIN, plan=plan, release=release, node=NODE, url=f"{NODE.url}/air-time", curl="curl -s ...")
    text = text_of(up)
    assert "1 change   1 new   3 stay   at once" in text
    assert "dev       r1 = version 3   confirmed by 1/1 workers" in text
    assert "try       curl -s ..." in text
    assert up.exit_code == 1  # for the 38 segments


@pytest.mark.parametrize(
    ("answered_by", "why", "said"),
    [("own", "", "own model   (node)"), ("pooled", "too few rows", "pooled model: too few rows   (node)")],
)
def test_a_prediction_says_who_answered(answered_by: str, why: str, said: str) -> None:
    answer = o.Answer(model="air-time", segment="UA,ORD", value=123.4, answered_by=answered_by, version=3, why=why)
    text = text_of(o.PredictOutcome(target="air_time", unit="min", answers=(answer,), source="node"))
    assert text == f"air_time 123.4 min   air-time[UA,ORD] 3   {said}"


def test_a_label_comes_with_its_probabilities() -> None:
    answer = o.Answer(
        model="late", segment="pooled", value="yes", answered_by="pooled", probabilities={"no": 0.25, "yes": 0.75}
    )
    assert "late yes   no 0.250   yes 0.750   late[pooled]" in text_of(
        o.PredictOutcome(target="late", answers=(answer,), source="node")
    )


def test_status_shows_models_and_node() -> None:
    model = o.ModelStatus(model="air-time", version=3, segments=396, own=180, pooled=216, releases={"dev": 1})
    text = text_of(o.StatusOutcome(project="/p", store=".modelmill", models=(model,), nodes=(NODE,)))
    assert "air-time 3   396 segments   180 own   216 pooled   dev r1" in text
    assert "http://127.0.0.1:8700   pid 7   dev   1 worker   1,234 requests   0 errors" in text


def test_search_is_a_table_with_a_way_on() -> None:
    found = o.FoundVersion(model="air-time", segment="UA,ORD", number=3, score=7.5, metric="mae", rows=900, run=3)
    text = text_of(o.SearchOutcome(versions=(found,), after="abc"))
    assert text.splitlines()[0].split() == ["version", "number", "mae", "rows", "answers", "run", "made"]
    assert "more      --after abc" in text
    assert text_of(o.SearchOutcome(versions=())) == "nothing found"


def test_what_is_shown_is_aligned_by_its_longest_label() -> None:
    text = text_of(o.ShowOutcome(kind="version", name="air-time 3", facts={"by": "run 3", "from the data": "s1"}))
    assert text.splitlines()[1:] == ["by             run 3", "from the data  s1"]


def test_status_says_what_is_broken_on_the_node() -> None:
    node = msgspec.structs.replace(NODE, healthy=False, broken={"air-time": "release 2 cannot be opened: pack"})
    text = text_of(o.StatusOutcome(project="/p", store="/p/.modelmill", nodes=(node,)))
    assert "does not answer as it should" in text
    assert "broken    air-time   release 2 cannot be opened: pack" in text


def test_status_tells_of_refusals_and_ends_only_where_there_are_any() -> None:
    quiet = msgspec.structs.replace(NODE, refused={"busy": 0, "late": 0})
    assert not {"refused", "ended"} & set(text_of(o.StatusOutcome(project="/p", store="s", nodes=(quiet,))).split())
    troubled = msgspec.structs.replace(
        NODE,
        refused={"busy": 1200, "deadline": 0, "late": 3},
        children_ended=5,
        children_over_memory=2,
        quarantined=1,
        log_file="s/run/dev/node.log",
    )
    text = text_of(o.StatusOutcome(project="/p", store="s", nodes=(troubled,)))
    assert "refused   1,200 because too many waited, 3 because their callers waited no more   next: modelmill" in text
    assert (
        "ended     5 processes of models by themselves   2 of them at their limit of memory   next: less s/run" in text
    )
    assert "1 in quarantine: ended again and again" in text


def test_fsck_says_what_is_broken() -> None:
    broken = o.FsckOutcome(
        checked={"blobs": 3}, problems=(o.Problem(code="MM505", what="pack damaged", where="ab/cd"),)
    )
    assert "broken    MM505 pack damaged   ab/cd" in text_of(broken)
    assert "nothing is lost" in text_of(o.FsckOutcome(checked={"blobs": 3}))
    assert (broken.exit_code, o.FsckOutcome(checked={}).exit_code) == (1, 0)


def test_doctor_says_what_to_do() -> None:
    check = o.DoctorCheck(name="store", state="problem", text="is full", next="df -h")
    outcome = o.DoctorOutcome(checks=(check,))
    assert text_of(outcome).splitlines() == ["problem   store   is full", "                  next   df -h"]
    assert outcome.exit_code == 1


def test_init_says_what_was_kept() -> None:
    text = text_of(InitOutcome(folder="/p", created=("a.py",), kept=("b.py",), next="modelmill check"))
    assert text.splitlines() == ["created   a.py", "kept      b.py", "next      modelmill check"]


def test_listing_nothing_says_so() -> None:
    assert text_of(o.SnapshotListing()) == "no snapshots yet"
    assert "flights@s1" in text_of(o.SnapshotListing(snapshots=(SNAPSHOT,)))


@pytest.mark.parametrize("verb", [*VERBS, *LOCAL_VERBS], ids=lambda verb: verb.name)
def test_every_verb_has_a_renderer(verb: Verb) -> None:
    assert verb.output in RENDERERS
