"""What a model writes: one sample in each of five styles, and the logs that a lesson reads."""

import shutil
from pathlib import Path

from minillama.figures.runs import PUBLISHED
from minillama.files import atomic_path, remove, write_json
from minillama.inference import generate
from minillama.train.checkpoint import load_model

PROMPTS = {
    "speech": "To the Senate and House of Representatives:\n\nDuring the past year the trade of "
    "our country with the other nations of the world has",
    "novel": "The old man stood by the window for a long time. At last he turned to me and said",
    "talk": "- What did you do on the weekend?\n- I went to the mountains with my friends.\n- That",
    "Wikipedia": "Thales was a Greek philosopher and astronomer of the 6th century BC. He was born "
    "in the city of Miletus, in Asia Minor, and is known as",
    "Python": "class Query:\n    def __init__(self, name):\n        self.name = name\n\n    def",
}
"""How each kind of text begins, in our own words."""
MAX_NEW_TOKENS, TEMPERATURE, SEED = 160, 0.6, 0


def write_samples(run: Path) -> str:
    """Complete the prompts with a run's model; they go into RUN/samples.json.

    Returns:
        The samples, to read.
    """
    model, tokenizer = load_model(run)
    settings = {"seed": SEED, "temperature": TEMPERATURE}
    samples = []
    for style, prompt in PROMPTS.items():
        text = generate(model, tokenizer, prompt, max_new_tokens=MAX_NEW_TOKENS, **settings)
        samples.append({"style": style, "prompt": prompt} | settings | {"text": text})
    write_json(run / "samples.json", samples)
    return "\n\n".join(f"--- {s['style']}\n{s['prompt']}{s['text']}" for s in samples)


def publish_runs(
    runs: Path, names: list[str], largest: str, ladder: str, to: Path = PUBLISHED
) -> None:
    """Copy what the notebooks read: settings, logs, results and samples, and the 5-gram's figures.

    Of the results question by question, only those at the end of the smallest and the largest
    run. Results of checkpoints that a run does not have (they are of an earlier one) are deleted.

    Args:
        runs: where the run folders are.
        names: of the runs, smallest first.
        largest: the one that wrote the samples.
        ladder: its name.
        to: the folder of the published logs.
    """
    files = [Path(name, file) for name in names for file in ("config.toml", "metrics.jsonl")]
    files += [Path(name, "test.json") for name in names if (runs / name / "test.json").exists()]
    for name in names:
        results = sorted((runs / name).glob("evaluations/*.json"))
        ends = results[-1:] if name in (names[0], largest) else []
        rows = [path.with_suffix(".jsonl") for path in ends]
        files += [path.relative_to(runs) for path in (*results, *filter(Path.exists, rows))]
    files += [Path(largest, "samples.json"), Path(f"{ladder}-5gram.json")]
    for file in files:
        with atomic_path(to / file) as tmp:
            shutil.copyfile(runs / file, tmp)
    for name in names:
        for path in (to / name).glob("evaluations/*"):
            if path.relative_to(to) not in files:
                remove(path)
