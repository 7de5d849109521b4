"""How requests arrive: one at a time, on an absolute schedule, or as live streams."""
