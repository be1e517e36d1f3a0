"""A page to play with: a model's text as it is written, its probabilities, its attention heads."""
