"""What every backend of a Protocol has to do, as functions that take a fresh, empty one.

Run them all on a backend of your own:

    @pytest.mark.parametrize("conforms", BLOBS_SUITE, ids=lambda f: f.__name__)
    def test_my_blobs(conforms, tmp_path):
        conforms(MyBlobs(), tmp_path)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modelmill.errors import BlobBroken, ModelmillError, NameInvalid
from modelmill.names import Digest, digest_of
from modelmill.store.blobs import Blobs, Pointers

_OUTSIDE = (
    "",
    "..",
    "../secret",
    "/etc/passwd",
    "ab/../../secret",
    "A" * 64,
    "a" * 63,
    "a" * 65,
    "a" * 63 + "\n",
    "é" * 64,
)


def blobs_return_what_was_put(blobs: Blobs, _: Path) -> None:
    """The digests come in the order of the contents, an empty one included."""
    contents = [b"one", b"", b"two" * 100_000]
    digests = blobs.put(contents)
    assert digests == [digest_of(content) for content in contents]
    assert [blobs.get(digest) for digest in digests] == contents
    assert [bytes(blobs.open(digest)) for digest in digests] == contents


def blobs_take_files_in(blobs: Blobs, folder: Path) -> None:
    """A file that was taken in is gone; taking the same content in again is no error."""
    for _ in range(2):
        path = folder / "finished"
        path.write_bytes(b"content")
        assert blobs.put_file(path) == digest_of(b"content")
        assert not path.exists()
    assert blobs.get(digest_of(b"content")) == b"content"


def blobs_are_created_once(blobs: Blobs, _: Path) -> None:
    """The same content again, in one call or in two, is one blob."""
    assert blobs.put([b"same", b"same"]) == blobs.put([b"same", b"same"])
    assert list(blobs.digests()) == [digest_of(b"same")]


def blobs_list_themselves(blobs: Blobs, _: Path) -> None:
    """Every blob is listed, and nothing else."""
    assert list(blobs.digests()) == []
    digests = blobs.put(b"%d" % number for number in range(300))
    assert sorted(blobs.digests()) == sorted(digests)


def blobs_can_be_deleted(blobs: Blobs, _: Path) -> None:
    """A deleted blob is missing; deleting it again is no error."""
    gone, kept = blobs.put([b"gone", b"kept"])
    blobs.delete([gone])
    blobs.delete([gone])
    assert list(blobs.digests()) == [kept]
    _refuses(BlobBroken, lambda: blobs.get(gone))
    _refuses(BlobBroken, lambda: blobs.open(gone))


def blobs_views_are_read_only(blobs: Blobs, _: Path) -> None:
    """Nobody can change a blob through its view."""
    (digest,) = blobs.put([b"content"])
    assert blobs.open(digest).readonly


def blobs_take_no_other_names(blobs: Blobs, _: Path) -> None:
    """What is no digest is refused before it can become a path."""
    for text in _OUTSIDE:
        _refuses(NameInvalid, lambda text=text: blobs.get(Digest(text)))  # type: ignore[misc]
        _refuses(NameInvalid, lambda text=text: blobs.open(Digest(text)))  # type: ignore[misc]
        _refuses(NameInvalid, lambda text=text: blobs.delete([Digest(text)]))  # type: ignore[misc]


def pointers_are_replaced(pointers: Pointers, _: Path) -> None:
    """A name stands for what was published last."""
    assert pointers.current("environment-dev.json") is None
    for content in (b"one", b"", b"three" * 10_000):
        pointers.publish("environment-dev.json", content)
        assert pointers.current("environment-dev.json") == content
    assert pointers.current("environment-prod.json") is None


def pointers_take_no_other_names(pointers: Pointers, _: Path) -> None:
    """What is no pointer's name is refused before it can become a path."""
    for name in ("", ".", "..", "../x", "a/b", "/x", "a\0b", "A", "tmp/..", "x" * 101, ".hidden", "a\n"):
        _refuses(NameInvalid, lambda name=name: pointers.publish(name, b""))  # type: ignore[misc]
        _refuses(NameInvalid, lambda name=name: pointers.current(name))  # type: ignore[misc]


BLOBS_SUITE: tuple[Callable[[Blobs, Path], None], ...] = (
    blobs_return_what_was_put,
    blobs_take_files_in,
    blobs_are_created_once,
    blobs_list_themselves,
    blobs_can_be_deleted,
    blobs_views_are_read_only,
    blobs_take_no_other_names,
)

POINTERS_SUITE: tuple[Callable[[Pointers, Path], None], ...] = (pointers_are_replaced, pointers_take_no_other_names)


def _refuses(kind: type[ModelmillError], act: Callable[[], object]) -> None:
    try:
        act()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")
