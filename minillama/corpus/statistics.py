"""What each step of a recipe let through and left out, and Table 1 made of it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from minillama.corpus.mixture import epochs
from minillama.corpus.token_files import SPLITS
from minillama.paper import TABLE1
from minillama.tables import text_table


@dataclass
class StepStats:
    """One step: what came in, what went out, and why the rest did not."""

    step: str
    documents_in: int = 0
    bytes_in: int = 0
    documents_out: int = 0
    bytes_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Documents that were left out, by reason."""
    removed: dict[str, int] = field(default_factory=dict)
    """Parts that were taken out of documents that stay, such as lines, by kind."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the step found out besides, such as the precision of a classifier."""
    note: str = ""
    """Why a step did not run."""

    def enter(self, size: int) -> None:
        """Count a document of ``size`` bytes that comes in."""
        self.documents_in += 1
        self.bytes_in += size

    def leave(self, size: int) -> None:
        """Count a document that goes on to the next step."""
        self.documents_out += 1
        self.bytes_out += size

    def drop(self, reason: str, count: int = 1) -> None:
        """Count documents that are left out."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def remove(self, kind: str, count: int = 1) -> None:
        """Count parts taken out of a document."""
        if count:
            self.removed[kind] = self.removed.get(kind, 0) + count

    def add(self, other: "StepStats") -> None:
        """Take over the counts of the same step on other documents."""
        for name in ("documents_in", "bytes_in", "documents_out", "bytes_out"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.dropped.items():
            self.drop(reason, count)
        for kind, count in other.removed.items():
            self.remove(kind, count)
        for name, value in other.facts.items():
            both = isinstance(value, int) and name in self.facts
            self.facts[name] = value + self.facts[name] if both else value
        self.note = self.note or other.note


def merge(waterfalls: Iterable[list[StepStats]]) -> list[StepStats]:
    """The sum of the waterfalls of several packages: rows of the same name become one."""
    rows: dict[str, StepStats] = {}
    for waterfall in waterfalls:
        for row in waterfall:
            rows.setdefault(row.step, StepStats(row.step)).add(row)
    return list(rows.values())


def summary(rows: list[StepStats]) -> dict[str, Any]:
    """A slice's entry in the manifest: what came in, all that was dropped, and the waterfall."""
    total = StepStats("total")
    for row in rows:
        total.add(row)
    return {
        "documents_in": rows[0].documents_in,
        "bytes_in": rows[0].bytes_in,
        "dropped": total.dropped,
        "removed": total.removed,
        "waterfall": [asdict(row) for row in rows],
    }


def waterfall_table(manifest: dict[str, Any]) -> str:
    """Every slice's steps: documents and megabytes that each let through, and why not the rest."""
    cells, remarks = [], []
    for name, entry in (manifest["slices"] | manifest["left_out"]).items():
        cells.append((name, f"{entry['documents_in']:,}", f"{entry['bytes_in'] / 1e6:.2f}"))
        remarks.append("files in")
        for row in entry["waterfall"]:
            size = f"{row['bytes_out'] / 1e6:.2f}"
            cells.append((f"  {row['step']}", f"{row['documents_out']:,}", size))
            remarks.append(_remark(row))
    header = ("what each step of Section 2.1's recipes leaves", "documents", "MB")
    lines = text_table(header, cells).split("\n")
    return "\n".join(
        f"{line}  {remark}".rstrip() for line, remark in zip(lines, ["", *remarks], strict=True)
    )


def _remark(row: dict[str, Any]) -> str:
    """What a step left out, took away and found."""
    remarks = []
    for reason, count in row["dropped"].items():
        remarks.append(f"{count:,} {reason}")
    for kind, count in row["removed"].items():
        remarks.append(f"{count:,} {kind} removed")
    for name, value in row["facts"].items():
        number = f"{value:.3g}" if isinstance(value, float) else value
        remarks.append(f"{name} {number}")
    both = [row["note"], ", ".join(remarks)]
    return "; ".join(filter(None, both))


def table1(manifest: dict[str, Any], budget: int) -> str:
    """Table 1 for this corpus, beside the paper's.

    A slice without a package is absent; of one that is absent after its files, nothing was kept.
    """
    weights, slices = manifest["weights"], manifest["slices"]
    tokens = {name: slices[name]["train"]["tokens"] for name in weights}
    read = epochs(weights, tokens, budget)
    rows, total = [], 0.0
    for name in (*TABLE1, *(name for name in weights if name not in TABLE1)):
        paper = _paper_cells(name)
        entry = (slices | manifest["left_out"]).get(name)
        if entry is None:
            rows.append((name, "absent", *[None] * 6, *paper))
            continue
        came = (f"{entry['documents_in']:,}", f"{entry['bytes_in'] / 1e6:.1f}")
        if name not in weights:
            rows.append((name, *came, "absent", *[None] * 4, *paper))
            continue
        kept = sum(entry[split]["documents"] for split in SPLITS)
        megabytes = sum(entry[split]["bytes"] for split in SPLITS) / 1e6
        total += megabytes
        left = (f"{kept:,}", f"{megabytes:.2f}", f"{tokens[name]:,}")
        label = name if entry["valid"]["tokens"] else f"{name} (nothing held out)"
        rows.append((label, *came, *left, f"{weights[name]:.1%}", f"{read[name]:.2f}", *paper))
    rows.append(("all", *[None] * 3, f"{total:.2f}", f"{sum(tokens.values()):,}", *[None] * 5))
    header = ("slice", "files in", "MB in", "kept", "MB", "tokens", "share", "epochs",
              "paper: share", "epochs", "disk")  # fmt: skip
    return f"Table 1 for {budget:,} training tokens\n{text_table(header, rows)}"


def sources_table(manifest: dict[str, Any], budget: int) -> str:
    """Every package's share of the tokens that a model reads, how often, and its license."""
    weights, slices, rows = manifest["weights"], manifest["slices"], []
    tokens = {name: slices[name]["train"]["tokens"] for name in weights}
    read = epochs(weights, tokens, budget)
    for part in manifest["packages"]:
        name = part["slice"]
        share = weights[name] * part["tokens"] / tokens[name]
        cells = (f"{part['bytes'] / 1e6:.2f}", f"{part['tokens']:,}", f"{share:.1%}")
        rows.append((part["package"], name, *cells, f"{read[name]:.2f}", part["license"]))
    header = ("package", "slice", "MB", "tokens", "share", "epochs", "license")
    return f"Packages, as trained on\n{text_table(header, rows)}"


def _paper_cells(name: str) -> tuple[str | None, ...]:
    """The paper's share, epochs and size of a slice."""
    if name not in TABLE1:
        return None, None, None
    row = TABLE1[name]
    share = f"{row['share']:.1%}"
    times = f"{row['epochs']:.2f}"
    return share, times, row["disk"]
