"""Machinery for many processes and big corpora: runtime, builds, datatrove, dry run."""
