"""What each step of a recipe let through and left out, and Table 1 made of it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from minillama.corpus.mixture import epochs
from minillama.paper import TABLE1

SPLITS = ("train", "valid")


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
        "documents_in": rows[0].documents_in, "bytes_in": rows[0].bytes_in,
        "dropped": total.dropped, "removed": total.removed,
        "waterfall": [asdict(row) for row in rows],
    }  # fmt: skip


def waterfall_table(manifest: dict[str, Any]) -> str:
    """Every slice's steps: documents and megabytes that each let through, and why not the rest."""
    lines = ["Waterfall: what is left after each step of Section 2.1's recipes"]
    for name, told in (manifest["slices"] | manifest["left_out"]).items():
        first = told["waterfall"][0]
        lines.append(
            f"{name:<38}{first['documents_in']:>8,} files{first['bytes_in'] / 1e6:>9.2f} MB"
        )
        lines += [_line(row) for row in told["waterfall"]]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    counts = [f"{count:,} {reason}" for reason, count in row["dropped"].items()]
    counts += [f"{count:,} {kind} removed" for kind, count in row["removed"].items()]
    counts += [f"{name} {_fact(value)}" for name, value in row["facts"].items()]
    told = "; ".join(filter(None, [row["note"], ", ".join(counts)]))
    left = f"{row['documents_out']:>8,}      {row['bytes_out'] / 1e6:>9.2f} MB"
    return f"  {row['step']:<36}{left}  {told}".rstrip()


def _fact(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value}"


def table1(manifest: dict[str, Any], budget: int) -> str:
    """Table 1 for this corpus, beside the paper's."""
    weights = manifest["weights"]
    tokens = {name: manifest["slices"][name]["train"]["tokens"] for name in weights}
    read = epochs(weights, tokens, budget)
    lines = [
        f"Table 1 for {budget:,} training tokens",
        f"{'slice':<14}{'files in':>9}{'MB in':>7}{'kept':>6}{'MB':>7}{'tokens':>11}"
        f"{'share':>7}{'epochs':>8} | paper: share, epochs, disk",
    ]
    for name in (*TABLE1, *(n for n in weights if n not in TABLE1)):
        row = TABLE1.get(name)
        paper = f"{row['share']:>6.1%}{row['epochs']:>6.2f}  {row['disk']}" if row else "     -"
        if name not in weights:
            why = "nothing of it is kept" if name in manifest["left_out"] else "no package has it"
            lines.append(f"{name:<14}{f'absent: {why}':>69} | {paper}")
            continue
        told = manifest["slices"][name]
        kept = {k: sum(told[s][k] for s in SPLITS) for k in ("documents", "bytes")}
        lines.append(
            f"{name:<14}{told['documents_in']:>9,}{told['bytes_in'] / 1e6:>7.1f}"
            f"{kept['documents']:>6,}{kept['bytes'] / 1e6:>7.2f}{tokens[name]:>11,}"
            f"{weights[name]:>7.1%}{read[name]:>8.2f} | {paper}"
        )
    size = sum(manifest["slices"][n][s]["bytes"] for n in weights for s in SPLITS)
    lines.append(f"{'all':<29}{size / 1e6:>14.2f}{sum(tokens.values()):>11,}")
    return "\n".join(lines)
