"""What is current where: environments, releases, pointers.

A release is an immutable, numbered fleet map in an environment; an environment points to one release of each model,
and moving that pointer is the whole of promoting and rolling back. This room owns the tables `release_*`. `pointer`
needs no SQLAlchemy: a serving node imports it. It may import `registry` and the rooms below it.
"""
