"""What torch's profiler hears from the allocator: an independent count of memory on a CPU."""

from collections.abc import Callable

from torch.autograd.profiler import profile

from minillama.bench.peak import Allocated


def by_allocator(function: Callable[[], object]) -> Allocated:
    """Bytes that ``function()`` allocates, also within an operation, at most and at its end."""
    with profile(profile_memory=True) as profiler:
        result = function()
    events = profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    now = peak = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        now += change
        peak = max(peak, now)
    del result
    return Allocated(peak, now)
