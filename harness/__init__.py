"""Measures speech-to-text serving: complete requests in, numbers with intervals out."""

__version__ = "0.1.0"
