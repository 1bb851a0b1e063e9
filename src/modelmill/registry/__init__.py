"""The room `registry`."""
