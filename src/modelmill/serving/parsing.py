"""Which fields a request to a model must have, known from its fleet map alone."""

from __future__ import annotations

from modelmill.registry.fleet import Header


def required_fields(header: Header) -> frozenset[str]:
    """Return the fields that a request must have.

    Without a @features function these are the keys and the features; with one it may read any column of a request.
    """
    if header.feature_names:
        return frozenset((*header.by, *header.feature_names))
    return frozenset(column.name for column in header.spec.request_columns)
