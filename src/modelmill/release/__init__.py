"""The room `release`: what is current where.

    releasing   make a fleet map current in an environment: compare and set a pointer, then publish it
    staging     the other ways to move: step by step, back, and not at all
    rollouts    how far a canary has come, and what was seen of it
    shadows     releases that answer copies, and what came of it
    analysis    tests of a canary that stay valid however often one looks
    policy      the steps and limits of a release, and the floors of an environment
    moving      who moved what when, holds, and what a roll-back goes back to
    rows        the statements that all of these are made of
    pointers    what was published: the one small content that serving nodes poll
    tables      the tables `release_*`, which this room owns

A release is an immutable, numbered fleet map in an environment; moving the environment's pointer is the whole of
promoting and rolling back. It may import `registry` and the rooms below it. `pointers` needs no SQLAlchemy: a serving
node imports it.
"""
