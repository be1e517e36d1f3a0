"""Training (Section 2.3): data order, optimizer, loop, checkpoints, log."""
