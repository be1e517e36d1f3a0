"""The figures of the paper and of the course, drawn from runs."""
