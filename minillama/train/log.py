"""metrics.jsonl: one line a step, append-only, cut back to the checkpoint when a run resumes."""

import json
from pathlib import Path
from typing import Any

from minillama.errors import DataError
from minillama.files import write_text


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """All complete lines of a run's metrics, in step order.

    A last line cut short by a crash is left out.

    Raises:
        DataError: the run has no metrics, or a line is damaged.
    """
    path = Path(run) / "metrics.jsonl"
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "train the run first") from None
    except ValueError as error:  # no UTF-8, or no JSON
        raise DataError(f"{path} is damaged ({error})", "train the run again") from None


def append_metrics(run: Path, record: dict[str, Any]) -> None:
    """Add one line; every line is whole before the next begins."""
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def rewind_metrics(run: Path, step: int) -> None:
    """Drop what was logged after ``step``, so that a resumed run writes each step once."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return
    kept = [record for record in read_metrics(run) if record["step"] <= step]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    if text != path.read_text(encoding="utf-8"):
        write_text(path, text)
