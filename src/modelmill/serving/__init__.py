"""The serving node: a parent that owns the socket, workers that answer, children that run the user's code.

A node reads blobs and one published pointer, never the database: it keeps answering with everything else down. `control`
starts, finds and stops a node; `node` is the parent; `worker` runs `app` over what `applied` has loaded; `linear` and
`python` are the runtimes. It may import `release` and the rooms below it, but no training library and no SQLAlchemy.
"""
