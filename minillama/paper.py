"""The paper's tables as data: "LLaMA: Open and Efficient Foundation Language Models", 2023."""

import json
from functools import cache
from importlib.resources import files as package_files
from typing import Any

from minillama.errors import ConfigError, nearest

PARAMETERS = {"7b": 6_738_415_616, "13b": 13_015_864_320, "33b": 32_528_943_616,
              "65b": 65_285_660_672}  # fmt: skip
"""Exact parameter counts of the four models of Table 2."""


@cache
def _tables() -> dict[str, Any]:
    text = (package_files("minillama") / "paper_tables.json").read_text(encoding="utf-8")
    return json.loads(text)


def table(name: str) -> list[dict[str, Any]]:
    """The rows of a table by name, as in ``table("table15_carbon")``.

    Raises:
        ConfigError: no such table; the nearest name is suggested.
    """
    if name not in _tables():
        raise ConfigError(f"the paper has no table '{name}'", nearest(name, _tables()))
    return _tables()[name]["rows"]


TABLE1: dict[str, dict[str, Any]] = {
    row["dataset"].lower(): {
        "label": row["dataset"],
        "share": row["sampling_prop_pct"] / 100,
        "epochs": row["epochs"],
        "disk": row["disk_size"],
    }
    for row in table("table1_data")
}
"""Table 1 by slice: label, sampling share (a fraction), epochs in 1.4T tokens, size on disk."""

TABLE2: dict[str, dict[str, Any]] = {
    row["model"].lower(): {
        "dim": row["dimension"],
        "n_heads": row["n_heads"],
        "n_layers": row["n_layers"],
        "lr": row["learning_rate"],
        "tokens": round(float(row["n_tokens"][:-1]) * 10**12),
    }
    for row in table("table2_configs")
}
"""Table 2 by model: width, heads, layers, peak learning rate, training tokens."""
