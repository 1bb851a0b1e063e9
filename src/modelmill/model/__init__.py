"""What a data scientist writes, as pure values: schema, model, conditions, features, metrics.

This room owns the declaration and everything that can be said of it without a store, a worker or a node: it
turns rows into `x`, a fitted object's output into answers, and a fitted object into bytes. It may import only
`errors`, `names`, `settings`, numpy and msgspec; heavier libraries only when a user's annotation asks for them.
"""
