"""The shared metadata of every room's tables, and the column types that they are made of.

A room declares its tables in its own ``tables.py``, each name prefixed with the room's. What exists in a database is
made by `migrations` alone; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import JSON, BigInteger, Dialect, Integer, LargeBinary, MetaData, String
from sqlalchemy.types import TypeDecorator, TypeEngine

from modelmill.names import Digest

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

RowId: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
"""A number that the database gives; SQLite counts up only in a plain INTEGER primary key."""

Key: TypeEngine[str] = String(collation="C").with_variant(String(), "sqlite")
"""Text that pages are ordered by: byte order, in every database alike."""

Json: TypeEngine[Any] = JSON()

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class DigestType(TypeDecorator[Digest]):
    """A digest as 32 bytes."""

    impl = LargeBinary(32)
    cache_ok = True

    def process_bind_param(self, value: Digest | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002 - its shape is SQLAlchemy's
        """Turn hexadecimal digits into bytes."""
        return _bytes_of(value)

    def bind_processor(self, dialect: Dialect) -> Callable[[Digest | None], bytes | None]:  # noqa: ARG002 - as above
        """Return the same as one plain function: a version has four digests, and a fleet thousands of versions."""
        return _bytes_of

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> Digest | None:  # noqa: ARG002 - its shape is SQLAlchemy's
        """Turn bytes into hexadecimal digits."""
        return None if value is None else Digest(value.hex())


def _bytes_of(digest: Digest | None) -> bytes | None:
    return None if digest is None else bytes.fromhex(digest)


class MomentType(TypeDecorator[datetime]):
    """A moment as microseconds since 1970, UTC: the same order and the same precision in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002 - its shape is SQLAlchemy's
        """Turn a moment with a time zone into a number."""
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - its shape is SQLAlchemy's
        """Turn a number into a moment in UTC."""
        return None if value is None else _EPOCH + value * _MICROSECOND


def now() -> datetime:
    """Return this moment in UTC."""
    return datetime.now(UTC)
