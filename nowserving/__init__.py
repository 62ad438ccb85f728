"""nowserving: serve generation models from a queue on GPUs."""

__version__ = "0.1.0"
