"""The paper's tables as data: "LLaMA: Open and Efficient Foundation Language Models", 2023.

All sixteen tables stand in ``paper_tables.json``; those that code computes with have names here.
"""

from functools import cache
from importlib.resources import files as package_files
from json import loads
from typing import Any

from minillama.errors import ConfigError, nearest

SOURCE = "Touvron et al., LLaMA: Open and Efficient Foundation Language Models, arXiv:2302.13971"

PARAMETERS = {"7b": 6_738_415_616, "13b": 13_015_864_320, "33b": 32_528_943_616,
              "65b": 65_285_660_672}  # fmt: skip
"""Exact parameter counts of the four models of Table 2."""


@cache
def _tables() -> dict[str, Any]:
    text = (package_files("minillama") / "paper_tables.json").read_text(encoding="utf-8")
    return loads(text)


def table(name: str | int) -> list[dict[str, Any]]:
    """The rows of a table, by number or by name: ``table(15)`` is ``table("table15_carbon")``.

    A dash in the paper is None; accuracies are in percent.

    Raises:
        ConfigError: no such table; the nearest name is suggested.
    """
    tables = {key: value["rows"] for key, value in _tables().items() if "rows" in value}
    by_number = {key.split("_")[0]: key for key in tables}
    name = by_number.get(f"table{name}", str(name))
    if name not in tables:
        raise ConfigError(f"the paper has no table '{name}'", nearest(name, tables))
    return tables[name]


TABLE1: dict[str, dict[str, Any]] = {
    row["dataset"].lower(): {
        "label": row["dataset"],
        "share": row["sampling_prop_pct"] / 100,
        "epochs": row["epochs"],
        "disk": row["disk_size"],
    }
    for row in table(1)
}
"""Table 1 by slice: label, sampling share (a fraction), epochs in 1.4T tokens, size on disk."""

TABLE2: dict[str, dict[str, Any]] = {
    row["model"].lower(): {
        "parameters": row["params"],
        "dim": row["dimension"],
        "n_heads": row["n_heads"],
        "n_layers": row["n_layers"],
        "lr": row["learning_rate"],
        "batch_tokens": int(row["batch_size_tokens"][:-1]) * 2**20,
        "tokens": round(float(row["n_tokens"][:-1]) * 10**12),
    }
    for row in table(2)
}
"""Table 2 by model: parameters as printed, width, heads, layers, peak learning rate, tokens a batch
(the "4M" read as 4 x 2^20, which is 2,048 sequences of 2,048), training tokens."""

SPEED = {"model": "65b", "gpu": "a100-80gb", "gpus": 2048, "tokens_per_s_per_gpu": 380, "days": 21}
"""Section 2.4: the speed of training the 65B model."""

TABLE15: dict[str, dict[str, Any]] = {
    row["model"].lower().removeprefix("llama-"): {
        "gpu_hours": row["gpu_hours"],
        "mwh": row["mwh"],
        "tco2eq": row["tco2eq"],
    }
    for row in table(15)
}
"""Table 15 by model (also "opt-175b", "bloom-175b"): hours of A100-80GB, MWh, tonnes of CO2eq."""

PUE = 1.1
"""Section 6: a data center's power over that of its computers alone."""
KG_CO2EQ_PER_KWH = 0.385
"""Section 6: the carbon intensity of the US average grid."""
