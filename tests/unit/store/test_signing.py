"""The installation's key: what it signs is provably ours."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from modelmill.errors import NotFound, SignatureInvalid
from modelmill.store.signing import SigningKey, public_key, verify


def test_what_was_signed_is_accepted(tmp_path: Path) -> None:
    signature = SigningKey.create(tmp_path).sign(b"a map")
    verify(public_key(tmp_path), b"a map", signature)


@pytest.mark.parametrize(
    ("content", "cut"), [(b"a mop", 64), (b"a map ", 64), (b"", 64), (b"a map", 63), (b"a map", 0)]
)
def test_anything_else_is_refused(tmp_path: Path, content: bytes, cut: int) -> None:
    signature = SigningKey.create(tmp_path).sign(b"a map")[:cut]
    with pytest.raises(SignatureInvalid):
        verify(public_key(tmp_path), content, signature)


def test_another_installations_signature_is_refused(tmp_path: Path) -> None:
    SigningKey.create(tmp_path / "ours")
    signature = SigningKey.create(tmp_path / "theirs").sign(b"a map")
    with pytest.raises(SignatureInvalid):
        verify(public_key(tmp_path / "ours"), b"a map", signature)


def test_the_private_key_is_its_owners_alone(tmp_path: Path) -> None:
    SigningKey.create(tmp_path)
    assert stat.S_IMODE((tmp_path / "keys" / "signing.key").stat().st_mode) == 0o600


def test_a_key_is_made_once(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(SigningKey.create(tmp_path).public)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert set(found) == {public_key(tmp_path)}


def test_a_lost_public_half_is_written_again(tmp_path: Path) -> None:
    key = SigningKey.create(tmp_path)
    (tmp_path / "keys" / "signing.pub").unlink()
    assert SigningKey.create(tmp_path).public == key.public == public_key(tmp_path)


def test_derived_secrets_differ_by_purpose_and_key(tmp_path: Path) -> None:
    ours, theirs = SigningKey.create(tmp_path / "ours"), SigningKey.create(tmp_path / "theirs")
    assert ours.derived("subjects") == SigningKey.load(tmp_path / "ours").derived("subjects")
    assert len({ours.derived("subjects"), ours.derived("other"), theirs.derived("subjects")}) == 3


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"keys/signing\.pub"):
        public_key(tmp_path)


def test_a_cut_off_key_is_refused(tmp_path: Path) -> None:
    SigningKey.create(tmp_path)
    (tmp_path / "keys" / "signing.pub").write_bytes(b"short")
    with pytest.raises(SignatureInvalid, match="is not a key"):
        public_key(tmp_path)
