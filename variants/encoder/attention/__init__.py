"""Encoders of family ``attention``: windows of thirty seconds, all of one length."""
