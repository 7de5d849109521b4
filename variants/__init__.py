"""What is measured: one folder per axis, one module per choice.

Variants import ``harness.protocols``, ``harness.spans``, ``harness.errors`` and ``harness.audio``, nothing
else of ``harness``; the harness reaches them only through ``variants.registry``. What happens to a request
in here is told in ``variants.serving``.
"""
