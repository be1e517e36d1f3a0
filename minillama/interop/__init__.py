"""Checkpoints in other projects' formats, exact in both directions."""
