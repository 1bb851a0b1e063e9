"""modelmill: one file becomes thousands of models, built, tested, registered and answering."""

__version__ = "0.1.0"
