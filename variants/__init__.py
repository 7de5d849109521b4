"""What is measured: one folder per axis, one module per choice.

Variants import ``harness.protocols``, ``harness.spans`` and ``harness.errors``, nothing else of
``harness``; the harness reaches them only through ``variants.registry``.
"""
