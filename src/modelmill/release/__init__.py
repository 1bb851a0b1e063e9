"""The room `release`: what is current where.

    releasing   make a fleet map current in an environment: compare and set a pointer, then publish it
    pointers    what was published: the one small content that serving nodes poll
    tables      the tables `release_*`, which this room owns

A release is an immutable, numbered fleet map in an environment; moving the environment's pointer is the whole of
promoting and rolling back. It may import `registry` and the rooms below it. `pointers` needs no SQLAlchemy: a serving
node imports it.
"""
