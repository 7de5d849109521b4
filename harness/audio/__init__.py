"""Container bytes to log-mel features, on NumPy arrays alone: imports neither torch nor NeMo."""
