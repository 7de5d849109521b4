"""Which works of an engine are computed together, and when."""
