"""Turning samples into figures: percentiles with intervals, the ledger, word errors, telemetry."""
