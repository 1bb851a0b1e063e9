"""Who may ask a node."""

from __future__ import annotations

import pytest

from modelmill.errors import HostRefused, TokenRefused
from modelmill.serving.calls import Call
from modelmill.serving.door import Door


def call(path: bytes = b"/sales", **headers: bytes) -> Call:
    return Call("POST", path, [(name.encode(), value) for name, value in headers.items()], b"")


@pytest.mark.parametrize(
    "host",
    [
        b"127.0.0.1:8700",
        b"127.0.0.1",
        b"localhost:8700",
        b"LOCALHOST",
        b"[::1]:8700",
        b"[::1]",
        b"node",
        b"",
        b"10.0.0.7:1",
    ],
)
def test_who_means_this_machine_may_ask(host: bytes) -> None:
    Door().check(call(host=host))


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example.com",
        b"evil.example.com:8700",
        b"127.0.0.1.evil.com",
        b"localhost.evil.com:80",
        b"a.b",
        b"1.2.3.4.5:1",
    ],
)
@pytest.mark.parametrize("path", [b"/sales", b"/metrics", b"/-/node", b"/v2/health/live"])
def test_a_name_of_somebody_elses_is_refused(host: bytes, path: bytes) -> None:
    with pytest.raises(HostRefused) as caught:
        Door().check(call(path, host=host))
    assert caught.value.status == 421
    assert "[serve] name" in caught.value.parts["next"]


def test_a_name_may_be_declared() -> None:
    Door(name="Models.example.com").check(call(host=b"models.EXAMPLE.com:443"))


def test_a_request_without_any_host_is_of_the_old_http() -> None:
    Door().check(call())


@pytest.mark.parametrize("given", [None, b"Bearer wrong", b"secret"])
def test_with_a_token_only_it_counts(given: bytes | None) -> None:
    headers = {"host": b"any.example.com"} | ({"authorization": given} if given else {})
    with pytest.raises(TokenRefused):
        Door(b"secret").check(call(**headers))
    Door(b"secret").check(call(b"/v2/health/ready", **headers))
    Door(b"secret").check(call(host=b"any.example.com", authorization=b"Bearer secret"))
