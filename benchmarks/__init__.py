"""Measurements of single parts, outside of any run of the harness."""
