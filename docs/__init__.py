"""The documentation; `python -m docs.reference` writes its generated pages."""
