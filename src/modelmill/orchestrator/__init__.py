"""The room `orchestrator`."""
