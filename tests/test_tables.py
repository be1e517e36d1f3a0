"""The one table printer, as text and as Markdown."""

import pytest

from minillama.tables import markdown_table, text_table


def test_columns_are_padded_and_numbers_stand_to_the_right() -> None:
    table = text_table(("name", "MB"), [("web", 1.5), ("a longer name", 22), ("none", None)])
    assert table.splitlines() == [
        "name            MB",
        "web            1.5",
        "a longer name   22",
        "none",
    ]


def test_a_rule_may_stand_below_the_header() -> None:
    assert text_table(("a", "b"), [(1, 22)], rule=True) == "a   b\n-  --\n1  22"


def test_markdown_has_one_mark_a_column() -> None:
    assert markdown_table(("a", "b"), [(1, None)]) == "| a | b |\n| :-- | --: |\n| 1 |  |"


def test_a_row_with_too_few_cells_is_an_error() -> None:
    with pytest.raises(IndexError):
        text_table(("a", "b"), [(1,)])
