"""What this machine has, which variants it can run, and what makes timing unsteady on it."""
