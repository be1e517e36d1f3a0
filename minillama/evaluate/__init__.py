"""Perplexity, the n-gram baseline and the benchmarks of Section 3."""
