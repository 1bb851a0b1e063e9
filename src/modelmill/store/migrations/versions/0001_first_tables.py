"""The first tables: snapshots, the registry, releases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEY = sa.String(collation="C").with_variant(sa.String(), "sqlite")
DIGEST = sa.LargeBinary(32)
SIGNATURE = sa.LargeBinary(64)
MOMENT = sa.BigInteger()


def upgrade() -> None:
    """Make the tables, those that others refer to first."""
    _snapshots()
    _models_and_segments()
    _runs()
    _packs_and_failures()
    _versions()
    _tags_and_evidence()
    _releases()


def _snapshots() -> None:
    op.create_table(
        "data_snapshot",
        sa.Column("id", ROW_ID, primary_key=True),
        sa.Column("dataset", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("segments", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.UniqueConstraint("dataset", "number"),
        sa.UniqueConstraint("dataset", "digest"),
    )


def _models_and_segments() -> None:
    op.create_table(
        "registry_model",
        sa.Column("id", ROW_ID, primary_key=True),
        sa.Column("name", KEY, nullable=False, unique=True),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("score", sa.String(63), nullable=False),
    )
    op.create_table(
        "registry_segment",
        sa.Column("id", ROW_ID, primary_key=True),
        _reference("model_id", "registry_model.id"),
        sa.Column("key", KEY, nullable=False),
        sa.Column("current", sa.Integer()),
        sa.Column("score", sa.Float()),
        sa.Column("failed", sa.Integer()),
        sa.UniqueConstraint("model_id", "key"),
    )
    op.create_index("ix_registry_segment_model_id_score_id", "registry_segment", ["model_id", "score", "id"])


def _runs() -> None:
    op.create_table(
        "registry_run",
        sa.Column("id", ROW_ID, primary_key=True),
        _reference("model_id", "registry_model.id"),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("idempotency_key", sa.String(64), nullable=False, unique=True),
        *[
            sa.Column(n, DIGEST, nullable=False)
            for n in ("plan", "snapshot", "code", "model", "lock", "host", "declaration")
        ],
        sa.Column("commit", sa.String(64), nullable=False),
        sa.Column("diff", DIGEST),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("map", DIGEST),
        sa.Column("signature", SIGNATURE),
        sa.UniqueConstraint("model_id", "number"),
    )


def _packs_and_failures() -> None:
    op.create_table(
        "registry_pack",
        sa.Column("id", ROW_ID, primary_key=True),
        _reference("run_id", "registry_run.id"),
        sa.Column("chunk", sa.Integer(), nullable=False),
        sa.Column("digest", DIGEST),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", MOMENT, nullable=False),
        sa.UniqueConstraint("run_id", "chunk"),
    )
    op.create_table(
        "registry_failure",
        _reference("run_id", "registry_run.id", primary_key=True),
        _reference("segment_id", "registry_segment.id", primary_key=True),
        sa.Column("stage", sa.String(20), nullable=False),
        sa.Column("code", sa.String(8), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sqlite_with_rowid=False,
    )


def _versions() -> None:
    op.create_table(
        "registry_version",
        sa.Column("id", ROW_ID, primary_key=True),
        _reference("segment_id", "registry_segment.id"),
        sa.Column("number", sa.Integer(), nullable=False),
        _reference("run_id", "registry_run.id"),
        _reference("pack_id", "registry_pack.id"),
        *[
            sa.Column(n, sa.BigInteger(), nullable=False)
            for n in ("offset", "length", "extras_offset", "extras_length")
        ],
        sa.Column("artifact", DIGEST, nullable=False),
        sa.Column("extras", DIGEST),
        sa.Column("identity", DIGEST, nullable=False),
        sa.Column("data", DIGEST, nullable=False),
        sa.Column("format", sa.String(20), nullable=False),
        sa.Column("runtime", sa.String(20), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("test_rows", sa.BigInteger(), nullable=False),
        sa.Column("score", sa.Float()),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.UniqueConstraint("segment_id", "number"),
    )
    op.create_index("ix_registry_version_run_id_segment_id", "registry_version", ["run_id", "segment_id"])


def _tags_and_evidence() -> None:
    op.create_table(
        "registry_tag",
        sa.Column("key", KEY, primary_key=True),
        sa.Column("value", KEY, primary_key=True),
        _reference("segment_id", "registry_segment.id", primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_registry_tag_segment_id_number", "registry_tag", ["segment_id", "number"])
    op.create_table(
        "registry_evidence",
        sa.Column("id", ROW_ID, primary_key=True),
        _reference("model_id", "registry_model.id"),
        sa.Column("number", sa.Integer()),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("verdict", sa.SmallInteger(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("recorded_at", MOMENT, nullable=False),
    )
    op.create_index("ix_registry_evidence_model_id_number_id", "registry_evidence", ["model_id", "number", "id"])


def _releases() -> None:
    op.create_table(
        "release_environment",
        sa.Column("name", KEY, primary_key=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
    )
    op.create_table(
        "release_release",
        sa.Column("environment", KEY, sa.ForeignKey("release_environment.name"), primary_key=True),
        sa.Column("model", KEY, primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("map", DIGEST, nullable=False),
        sa.Column("signature", SIGNATURE, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
    )
    op.create_table(
        "release_pointer",
        sa.Column("environment", KEY, sa.ForeignKey("release_environment.name"), primary_key=True),
        sa.Column("model", KEY, primary_key=True),
        sa.Column("number", sa.Integer(), nullable=False),
    )


def _reference(name: str, target: str, *, primary_key: bool = False) -> sa.Column[int]:
    return sa.Column(name, ROW_ID, sa.ForeignKey(target), nullable=False, primary_key=primary_key)
