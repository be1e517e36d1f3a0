"""The mixture of Table 1: which share of the training tokens each slice gives."""

from collections.abc import Iterable

from minillama.errors import ConfigError
from minillama.paper import TABLE1

OWN_SLICE = "mytexts"
"""The slice of texts that the user adds."""


def mixture(present: Iterable[str], own_share: float = 0.1) -> dict[str, float]:
    """The paper's shares, renormalized over the slices that have text.

    Args:
        present: names of slices, those of Table 1 or ``mytexts``.
        own_share: the fraction that ``mytexts`` takes, if present; the others share the rest. 1:
            nothing but ``mytexts``.

    Returns:
        slice -> fraction, in Table 1's order; the fractions add up to 1.

    Raises:
        ConfigError: an unknown slice beside others, or a share outside (0, 1].
    """
    present = set(present)
    if len(present) == 1:
        return dict.fromkeys(present, 1.0)  # alone it is the whole mixture, whatever its name
    unknown = present - set(TABLE1) - {OWN_SLICE}
    if unknown:
        raise ConfigError(f"unknown slices {sorted(unknown)}", f"Table 1 has {', '.join(TABLE1)}")
    if not 0 < own_share <= 1:
        raise ConfigError(f"own_share = {own_share}", "choose a fraction above 0, up to 1")
    if OWN_SLICE in present and own_share == 1:
        return {OWN_SLICE: 1.0}
    own = {OWN_SLICE: own_share} if OWN_SLICE in present else {}
    rest = 1 - sum(own.values())
    shares = {name: row["share"] for name, row in TABLE1.items() if name in present}
    total = sum(shares.values())
    weights = {name: share / total * rest for name, share in shares.items()}
    return weights | own


def epochs(weights: dict[str, float], tokens: dict[str, int], budget: int) -> dict[str, float]:
    """How often each slice is read in a run of ``budget`` tokens."""
    return {name: weight * budget / tokens[name] for name, weight in weights.items()}
