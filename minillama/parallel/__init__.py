"""What it takes to train a model on many GPUs (Section 2.4)."""
