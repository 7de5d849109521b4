"""The published claims, each with the pair of variants that tests it and the verdict of this machine."""
