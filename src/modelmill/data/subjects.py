"""The subject index: in which files of snapshots and logged predictions a person occurs, without saying who occurs there.

One row a file, with a keyed hash of every distinct value of its subject columns. The key is derived from the
installation's own, so that the index can be asked about a person but not read, nor guessed from a list of people.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
from sqlalchemy import Connection, delete, select

from modelmill.data.tables import subjects
from modelmill.model.schema import SchemaSpec
from modelmill.model.values import key_text
from modelmill.names import Digest
from modelmill.store.opening import Store

_WIDTH = 16


def hash_subjects(store: Store, spec: SchemaSpec, frame: pl.DataFrame) -> bytes:
    """Return the keyed hashes of all subjects in the rows of one file: distinct, ascending, 16 bytes each."""
    columns = [frame[column.name] for column in spec.with_role("subject")]
    key = _key(store)
    hashes = {_hash(key, value) for column in columns for value in column.drop_nulls().unique().to_list()}
    return b"".join(sorted(hashes))


def record_subjects(c: Connection, hashes: Mapping[Digest, bytes]) -> None:
    """Record which subjects files hold; a file that an earlier snapshot shares is recorded already."""
    known = (
        set(c.execute(select(subjects.c.file).where(subjects.c.file.in_(list(hashes)))).scalars()) if hashes else set()
    )
    added = [{"file": file, "hashes": found} for file, found in hashes.items() if file not in known]
    if added:
        c.execute(subjects.insert(), added)


def forget_files(c: Connection, files: Sequence[Digest]) -> None:
    """Forget files that are removed."""
    c.execute(delete(subjects).where(subjects.c.file.in_(files)))


def files_naming(store: Store, subject: str | int) -> list[Digest]:
    """Return the files in which a subject occurs, each named by its digest."""
    wanted = _hash(_key(store), subject)
    with store.database.read() as c:
        return sorted(_matching(c.execute(select(subjects.c.file, subjects.c.hashes)), wanted))


def _matching(rows: Iterable[Any], wanted: bytes) -> Iterable[Digest]:
    for file, hashes in rows:
        place = bisect_left(range(len(hashes) // _WIDTH), wanted, key=lambda n: hashes[n * _WIDTH : (n + 1) * _WIDTH])
        if hashes[place * _WIDTH : (place + 1) * _WIDTH] == wanted:
            yield file


def _hash(key: bytes, value: Any) -> bytes:
    return hashlib.blake2b(key_text(value).encode(), key=key, digest_size=_WIDTH).digest()


def _key(store: Store) -> bytes:
    return store.key.derived("subject index")
