"""minillm: train, tune, understand and run small Transformers with nothing heavier than NumPy."""

__version__ = "0.1.0"
