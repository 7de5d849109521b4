"""Audio sets: a specification of lengths, containers, noise and speech becomes recordings."""
