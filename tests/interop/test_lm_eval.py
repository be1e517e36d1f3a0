"""lm-evaluation-harness runs on an exported folder, offline, and finds our log-likelihoods."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from tiny import TinyCorpus, prose, python

from minillama.config import ModelConfig
from minillama.interop import huggingface
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

QUESTIONS = [
    {"question": "The old miller walked along", "choices": ["the river", "a lamp"], "answer": 0},
    {"question": prose(1, 8), "choices": ["12 boats", "home", "a sailor's  żółw"], "answer": 2},
    {"question": "Nobody knew why", "choices": ["his lamp burned", "rain fell"], "answer": 1},
]
TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
"""
SCRIPT = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager

folder, tasks, out = sys.argv[1:]
found = lm_eval.simple_evaluate(
    model="hf", model_args={"pretrained": folder, "dtype": "float32"}, tasks=["tiny_choice"],
    task_manager=TaskManager(include_path=tasks, include_defaults=False), device="cpu",
    batch_size=2, log_samples=True, bootstrap_iters=0,
)
samples = [[float(score) for (score, _), in s["resps"]] for s in found["samples"]["tiny_choice"]]
accuracy = found["results"]["tiny_choice"]["acc,none"]
json.dump({"samples": samples, "accuracy": accuracy}, open(out, "w"))
"""


def log_likelihood(model: Llama, tokenizer: Tokenizer, question: str, choice: str) -> float:
    """Of the choice after the question, from the definition."""
    begin = tokenizer.encode(question, bos=True)
    ids = tokenizer.encode(f"{question} {choice}", bos=True)
    with torch.no_grad():
        log_p = model(torch.tensor([ids]))[0].log_softmax(-1)
    return sum(float(log_p[i - 1, ids[i]]) for i in range(len(begin), len(ids)))


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed")
def test_the_harness_scores_as_we_do(tiny_corpus: TinyCorpus, tmp_path: Path):
    tokenizer = Tokenizer.load(tiny_corpus.folder / "tokenizer.model")
    torch.manual_seed(0)
    model = Llama(ModelConfig(dim=32, n_layers=2, n_heads=2, vocab_size=320, max_seq_len=128))
    folder = huggingface.save(model, tokenizer, tmp_path / "model", max_shard_bytes=50_000)
    data, tasks = tmp_path / "questions.jsonl", tmp_path / "tasks"
    data.write_text("".join(json.dumps(line) + "\n" for line in QUESTIONS))
    tasks.mkdir()
    (tasks / "tiny_choice.yaml").write_text(TASK.format(file=data))
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = python("-c", SCRIPT, str(folder), str(tasks), str(tmp_path / "out.json"),
                  env=offline, timeout=500, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    ours = [
        [log_likelihood(model, tokenizer, line["question"], choice) for choice in line["choices"]]
        for line in QUESTIONS
    ]
    for theirs, expected in zip(found["samples"], ours, strict=True):
        assert theirs == pytest.approx(expected, abs=1e-4)
    right = [scores.index(max(scores)) == line["answer"]
             for scores, line in zip(ours, QUESTIONS, strict=True)]  # fmt: skip
    assert found["accuracy"] == pytest.approx(sum(right) / len(right))
