"""The room `store`: where things are kept - rows in a database, bytes in blobs. It knows nothing of models.

    opening     `open_store`: the folder, the database, the blobs, the pointers and the key as one value
    database    `Database`: SQLite or PostgreSQL, one way to read and one to write
    tables      the shared metadata and the column types of every room's tables
    blobs       `Blobs` and `Pointers`: content-addressed bytes, and the few names that may change
    packs       many small contents in one file, each verified when it is read
    signing     what this installation wrote, and how a node proves it
    locks       one writer a project, and who it is
    files       how a file appears: complete, or not at all

It owns the folder that the setting `store` names. It may import `errors`, `names` and `settings`. Only `opening`,
`database`, `dialects`, `tables` and `migrations` import SQLAlchemy: a serving node does without.
"""
