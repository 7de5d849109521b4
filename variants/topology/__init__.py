"""Which processes a request passes through on its way from container bytes to text."""
