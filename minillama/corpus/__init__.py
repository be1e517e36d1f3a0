"""The corpus of Section 2.1: sources, one file a slice, mixture, shards, build."""
