"""The published claims: leaves of ``conf/claims``, each a pair of configurations and a rule, measured by
``harness.interleave`` and judged by ``harness.compare``."""
