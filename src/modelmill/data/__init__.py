"""Rows: sources, contracts, snapshots, and the table that build workers map.

This room owns the snapshots and the tables `data_*`. `snapshot` is light; the files that need polars, pandera or
SQLAlchemy are imported by those who need them. It may import `errors`, `names`, `settings`, `model` and `store`.
"""
