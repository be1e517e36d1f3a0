"""Figures from runs, and where their numbers come from (Section 3.7)."""
