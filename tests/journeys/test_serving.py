"""A node under real clients: right answers, right refusals, and what happens when its processes die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from sklearn.linear_model import Ridge

from modelmill.serving.control import NodeInfo, find_node

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import stores5k  # type: ignore[import-not-found]

from .conftest import PATIENCE_S

Command = Callable[..., Any]
FIELDS = ["store", "price", "footfall", "weekday", "promo", "weather"]
SHORT = {"name": "price", "shape": [2], "datatype": "FP64", "data": [1]}
PLAIN = """
@sales.predict
def predict(model: Any, x: np.ndarray, segment: tuple[str, ...]) -> np.ndarray:
    answers = model.predict(x)
    return answers * np.nan if segment and FAULTS.get(segment[0]) == "nan" else answers
"""


@pytest.fixture(scope="module", params=["python", "packed"])
def project(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, modelmill: Command
) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp(request.param) / "stores"
    stores5k.write_project(folder, stores=12, rows=60)
    if request.param == "packed":
        file = folder / "stores.py"
        text = file.read_text()
        assert PLAIN in text
        file.write_text(text.replace(PLAIN, ""))
    done = modelmill("up", "--detach", "--port", "0", "--json", cwd=folder)
    assert done.code == 0, done.err
    yield folder
    modelmill("down", cwd=folder)
    assert find_node(folder / ".modelmill") is None


def node(project: Path) -> NodeInfo:
    found = find_node(project / ".modelmill")
    assert found is not None
    return found


def url(project: Path, path: str = "/sales") -> str:
    return f"{node(project).url}{path}"


def last_rows(project: Path, store: str) -> list[dict[str, Any]]:
    frame = pl.read_parquet(project / "rows.parquet").filter(pl.col("store") == store).sort("at")
    return frame.tail(5).select(FIELDS).to_dicts()


def test_answers_equal_a_fit_by_hand(project: Path) -> None:
    frame = pl.read_parquet(project / "rows.parquet").filter(pl.col("store") == "north-00000").sort("at")
    x, y = frame.select(FIELDS[1:]).to_numpy().astype(float), frame["sales"].to_numpy()
    expected = Ridge(alpha=1.0).fit(x[:48], y[:48]).predict(x[-5:])
    found = httpx.post(url(project), json=last_rows(project, "north-00000")).json()
    assert [answer["sales"] for answer in found] == pytest.approx(expected.tolist(), rel=1e-12)
    assert {(answer["answered_by"], answer["version"]) for answer in found} == {("own", 1)}


def test_one_row_answers_as_in_a_batch(project: Path) -> None:
    rows = last_rows(project, "south-00001")
    alone = [httpx.post(url(project), json=row).json()["sales"] for row in rows]
    together = [answer["sales"] for answer in httpx.post(url(project), json=rows).json()]
    assert alone == pytest.approx(together, rel=1e-13)


def test_an_unknown_segment_is_answered_by_the_pooled_model(project: Path) -> None:
    row = last_rows(project, "south-00001")[0] | {"store": "nowhere"}
    found = httpx.post(url(project), json=row).json()
    assert (found["answered_by"], found["why"]) == ("pooled", "no model was built for this segment")


def test_the_segment_may_stand_in_the_address(project: Path) -> None:
    row = last_rows(project, "south-00001")[0]
    del row["store"]
    found = httpx.post(url(project, "/sales[south-00001]"), json=row).json()
    assert (found["segment"], found["answered_by"]) == ("south-00001", "own")


def test_v2_gives_the_same_answers(project: Path) -> None:
    rows = last_rows(project, "west-00002")
    types = {"store": "BYTES", "weekday": "INT64"}
    inputs = [
        {"name": n, "datatype": types.get(n, "FP64"), "shape": [5, 1], "data": [[row[n]] for row in rows]}
        for n in FIELDS
    ]
    reply = httpx.post(url(project, "/v2/models/sales/infer"), json={"id": "7", "inputs": inputs}).json()
    named = [answer["sales"] for answer in httpx.post(url(project), json=rows).json()]
    assert reply["outputs"] == [{"name": "sales", "datatype": "FP64", "shape": [5], "data": named}]
    assert (reply["id"], reply["model_name"]) == ("7", "sales")


@pytest.mark.parametrize(
    ("change", "status", "code", "said"),
    [
        ({"price": "1"}, 422, "MM202", "price"),
        ({"price": True}, 422, "MM202", "price"),
        ({"price": 99}, 422, "MM202", "price"),
        ({"prise": 1}, 422, "MM203", "prise"),
        ({"weekday": None}, 422, "MM202", "weekday"),
        ({"weekday": 2**70}, 422, "MM202", "weekday"),
    ],
)
def test_a_wrong_field_is_refused_by_name(
    project: Path, change: dict[str, Any], status: int, code: str, said: str
) -> None:
    reply = httpx.post(url(project), json=last_rows(project, "west-00002")[0] | change)
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert said in reply.json()["error"]
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "content", "status", "code"),
    [
        ("/sales", b"{", 400, "MM204"),
        ("/sales", b'{"price": NaN}', 400, "MM204"),
        ("/sales", b"[" * 100_000, 400, "MM204"),
        ("/sales", b"\xff\xfe", 400, "MM204"),
        ("/sales", b"[]", 400, "MM204"),
        ("/sales", b"3", 422, "MM202"),
        ("/sales", b"", 400, "MM204"),
        ("/salse", b"{}", 404, "MM205"),
        ("/sales[a,b]", b"{}", 400, "MM204"),
        ("/v2/models/sales/infer", b"{}", 400, "MM204"),
        (
            "/v2/models/sales/infer",
            b'{"inputs": [{"name": "price", "shape": [2], "datatype": "FP64", "data": [1]}]}',
            422,
            "MM202",
        ),
        ("/v2/models/../repository", b"{}", 404, "MM206"),
        ("/%2e%2e/x", b"{}", 404, "MM206"),
        ("/sales", b'{"price": 1' + b" " * (33 << 20) + b"}", 413, "MM207"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_input_is_never_our_fault(project: Path, path: str, content: bytes, status: int, code: str) -> None:
    reply = httpx.post(url(project, path), content=content)
    assert reply.status_code == status, reply.text[:300]
    assert reply.json()["code"] == code


@pytest.mark.parametrize("length", [b"-1", b"banana", b"5\r\ncontent-length: 6"])
def test_what_is_not_http_is_refused_in_json(project: Path, length: bytes) -> None:
    head = b"POST /sales HTTP/1.1\r\nhost: a\r\ncontent-length: " + length + b"\r\n\r\n{}   "
    with socket.create_connection((node(project).host, node(project).port), timeout=30) as client:
        client.sendall(head)
        reply = client.recv(65536)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/json\r\n" in reply
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["code"] == "MM204"


def test_an_address_and_a_row_that_differ_are_refused(project: Path) -> None:
    row = last_rows(project, "south-00001")[0]
    reply = httpx.post(url(project, "/sales[west-00002]"), json=row)
    assert (reply.status_code, reply.json()["code"]) == (422, "MM202")
    assert "store" in reply.json()["error"]


def test_one_connection_answers_many_requests(project: Path) -> None:
    row = last_rows(project, "south-00001")[0]
    with httpx.Client() as client:
        replies = [client.post(url(project), json=row) for _ in range(20)]
        ports = {reply.extensions["network_stream"].get_extra_info("client_addr") for reply in replies}
    assert {reply.status_code for reply in replies} == {200}
    assert len(ports) == 1


def test_another_method_is_refused(project: Path) -> None:
    assert httpx.get(url(project)).status_code == 405
    assert httpx.get(url(project, "/v2/models/sales")).json()["inputs"][0]["name"] == "store"


def test_health_and_example(project: Path) -> None:
    assert httpx.get(url(project, "/v2/health/live")).json() == {"live": True}
    assert httpx.get(url(project, "/v2/health/ready")).json() == {"ready": True}
    example = httpx.get(url(project, "/sales/example")).json()
    assert httpx.post(url(project), json=example).status_code == 200
    fields = httpx.get(url(project, "/sales/schema")).json()["fields"]
    assert {field["name"] for field in fields} >= set(example)


def test_the_node_imports_neither_database_nor_training_libraries(project: Path) -> None:
    heavy = ("sqlalchemy", "alembic", "polars", "pyarrow", "pandas", "sklearn")
    for pid in (node(project).pid, worker_pid(project)):
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert not [name for name in heavy if f"site-packages/{name}/" in mapped]


def worker_pid(project: Path) -> int:
    found: int = httpx.get(url(project, "/-/node")).json()["workers"][0]["pid"]
    return found


def test_a_killed_worker_is_replaced(project: Path) -> None:
    time.sleep(2)  # younger ones are taken for a crash loop
    before = worker_pid(project)
    os.kill(before, signal.SIGKILL)
    row = last_rows(project, "west-00002")[0]
    assert answered(url(project), row)
    assert worker_pid(project) != before


def answered(address: str, row: dict[str, Any]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if httpx.post(address, json=row, timeout=60).is_success:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    return False


def test_editing_or_deleting_the_file_changes_no_answer(project: Path) -> None:
    row, file = last_rows(project, "north-00003")[0], project / "stores.py"
    before, text = httpx.post(url(project), json=row).json(), file.read_text()
    file.write_text("raise RuntimeError('edited')")
    os.kill(worker_pid(project), signal.SIGKILL)
    try:
        assert answered(url(project), row)
        file.unlink()
        assert httpx.post(url(project), json=row).json() == before
    finally:
        file.write_text(text)


def test_a_flipped_byte_in_a_pack_is_refused(project: Path, tmp_path: Path, modelmill: Command) -> None:
    copy = tmp_path / "stores"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("run", "cache"))
    packs = [
        path for path in (copy / ".modelmill" / "blobs").glob("??/*") if b"modelmill pack" in path.read_bytes()[:64]
    ]
    for pack in packs:
        content = bytearray(pack.read_bytes())
        content[80:-1:7] = bytes(byte ^ 1 for byte in content[80:-1:7])
        pack.chmod(0o600)
        pack.write_bytes(content)
    fsck = modelmill("fsck", "--json", cwd=copy)
    assert fsck.code == 1
    assert len(fsck.json["problems"]) >= len(packs)
    assert modelmill("up", "--detach", "--port", "0", cwd=copy).code == 0
    try:
        reply = httpx.post(url(copy), json=last_rows(project, "north-00003")[0])
        assert reply.status_code in (422, 500)
        assert "sales" not in reply.json()
    finally:
        modelmill("down", cwd=copy)


def test_a_new_release_is_taken_while_requests_run(project: Path, modelmill: Command) -> None:
    row = last_rows(project, "north-00003")[0]
    versions = [httpx.post(url(project), json=row).json()["version"]]
    frame = pl.read_parquet(project / "rows.parquet")
    hit = pl.col("store") == "north-00003"
    frame.with_columns(sales=pl.when(hit).then(pl.col("sales") + 5).otherwise(pl.col("sales"))).write_parquet(
        project / "rows.parquet"
    )
    again = modelmill("up", "--detach", "--json", cwd=project)
    assert again.code == 0, again.err
    versions.append(httpx.post(url(project), json=row).json()["version"])
    assert versions[1] > versions[0]
    assert again.json["train"]["counts"]["built"] == 1


def test_a_busy_port_says_whose_it_is(project: Path, tmp_path: Path, modelmill: Command) -> None:
    stores5k.write_project(tmp_path / "other", stores=2, rows=30)
    done = modelmill("up", "--detach", "--port", str(node(project).port), cwd=tmp_path / "other")
    assert done.code == 2
    assert "MM501" in done.err
    assert f"pid {node(project).pid}" in done.err
