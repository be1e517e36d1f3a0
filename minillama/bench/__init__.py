"""Side-by-side benchmarks: ``minillama bench <what>``. Ratios within one run."""
