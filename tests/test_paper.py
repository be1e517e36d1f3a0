"""The paper's tables as data, spot-checked against numbers typed by hand from the paper."""

import pytest

from minillama.errors import ConfigError
from minillama.paper import KG_CO2EQ_PER_KWH, PUE, SPEED, TABLE1, TABLE2, TABLE15, table


def row(number: int, **wanted: object) -> dict:
    """The one row of a table with these values."""
    found = [r for r in table(number) if all(r.get(k) == v for k, v in wanted.items())]
    assert len(found) == 1, f"{len(found)} rows of table {number} have {wanted}"
    return found[0]


@pytest.mark.parametrize(
    ("name", "share", "epochs", "disk"),
    [
        ("commoncrawl", 0.67, 1.10, "3.3 TB"),
        ("c4", 0.15, 1.06, "783 GB"),
        ("github", 0.045, 0.64, "328 GB"),
        ("wikipedia", 0.045, 2.45, "83 GB"),
        ("books", 0.045, 2.23, "85 GB"),
        ("arxiv", 0.025, 1.06, "92 GB"),
        ("stackexchange", 0.02, 1.03, "78 GB"),
    ],
)
def test_table_1(name: str, share: float, epochs: float, disk: str) -> None:
    told = TABLE1[name]
    assert (told["share"], told["epochs"], told["disk"]) == (pytest.approx(share), epochs, disk)


def test_shares_add_up() -> None:
    assert sum(told["share"] for told in TABLE1.values()) == pytest.approx(1)
    assert len(TABLE1) == 7


@pytest.mark.parametrize(
    ("name", "parameters", "shape", "lr", "tokens"),
    [
        ("7b", "6.7B", (4096, 32, 32), 3.0e-4, 1.0e12),
        ("13b", "13.0B", (5120, 40, 40), 3.0e-4, 1.0e12),
        ("33b", "32.5B", (6656, 52, 60), 1.5e-4, 1.4e12),
        ("65b", "65.2B", (8192, 64, 80), 1.5e-4, 1.4e12),
    ],
)
def test_table_2(name: str, parameters: str, shape: tuple, lr: float, tokens: float) -> None:
    told = TABLE2[name]
    assert told["parameters"] == parameters
    assert (told["dim"], told["n_heads"], told["n_layers"]) == shape
    assert (told["lr"], told["tokens"], told["batch_tokens"]) == (lr, tokens, 2048 * 2048)


@pytest.mark.parametrize(
    ("name", "hours", "mwh", "tonnes"),
    [
        ("opt-175b", 809_472, 356, 137),
        ("bloom-175b", 1_082_880, 475, 183),
        ("7b", 82_432, 36, 14),
        ("13b", 135_168, 59, 23),
        ("33b", 530_432, 233, 90),
        ("65b", 1_022_362, 449, 173),
    ],
)
def test_table_15(name: str, hours: int, mwh: int, tonnes: int) -> None:
    told = TABLE15[name]
    assert (told["gpu_hours"], told["mwh"], told["tco2eq"]) == (hours, mwh, tonnes)


def test_sections_2_4_and_6() -> None:
    assert (PUE, KG_CO2EQ_PER_KWH) == (1.1, 0.385)
    assert SPEED["gpus"] * SPEED["tokens_per_s_per_gpu"] * 86_400 * SPEED["days"] == pytest.approx(
        1.4e12, rel=0.02
    )


@pytest.mark.parametrize(
    ("number", "wanted", "column", "value"),
    [
        (6, {"model": "LLaMA", "size": "7B"}, "RACE-middle", 61.1),
        (6, {"model": "LLaMA", "size": "65B"}, "RACE-high", 51.6),
        (6, {"model": "GPT-3"}, "RACE-high", 45.5),
        (6, {"model": "PaLM", "size": "540B"}, "RACE-middle", 68.1),
        (11, {"model": "LLaMA", "size": "7B"}, "Basic", 0.106),
        (11, {"model": "LLaMA", "size": "33B"}, "Respectful", 0.087),
        (11, {"model": "LLaMA", "size": "65B"}, "Respectful", 0.141),
        (12, {"category": "Gender"}, "LLaMA", 70.6),
        (12, {"category": "Religion"}, "GPT3", 73.3),
        (12, {"category": "Disability"}, "OPT", 76.7),
        (12, {"category": "Average"}, "LLaMA", 66.6),
        (13, {"pronouns": "All"}, "65B", 77.5),
        (13, {"pronouns": "his/him/he"}, "7B", 60.8),
        (13, {"pronouns": "his/him/he (gotcha)"}, "65B", 63.3),
        (14, {"model": "GPT-3", "size": "6B"}, "Truthful", 0.22),
        (14, {"model": "LLaMA", "size": "13B"}, "Truthful*Informative", 0.41),
        (14, {"model": "LLaMA", "size": "65B"}, "Truthful", 0.57),
    ],
)
def test_other_tables(number: int, wanted: dict, column: str, value: float) -> None:
    assert row(number, **wanted)[column] == value


def test_there_are_sixteen_tables() -> None:
    assert all(len(table(number)) > 0 for number in range(1, 17))
    assert table(15) is table("table15_carbon")
    assert len(table(16)) == 57  # the subjects of MMLU


@pytest.mark.parametrize(
    ("name", "message"),
    [(0, "no table '0'"), (17, "no table '17'"), ("table15_carbn", "mean 'table15_carbon'")],
)
def test_unknown_tables(name: int | str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        table(name)
