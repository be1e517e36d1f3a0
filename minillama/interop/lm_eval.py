"""lm-evaluation-harness on a minillama checkpoint: any of its tasks, on our own scoring.

The harness (EleutherAI, the package ``lm_eval``) is what the paper's scoring follows (Section 3).
It makes the prompts and counts the points; of a model it asks three kinds of question, which the
class here answers. Our own evaluations do without it: it is a second opinion on them, and the way
to the hundreds of tasks that the paper does not have. ``minillama harness RUN --tasks NAME``, or

    import lm_eval, minillama.interop.lm_eval
    lm_eval.simple_evaluate(model="minillama", model_args="checkpoint=runs/nano-7b", tasks=["piqa"])
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from minillama.errors import CheckpointError, ConfigError, DataError, nearest
from minillama.evaluate.multiple_choice import judgments, windows
from minillama.evaluate.tasks import Question
from minillama.files import write_json, write_text
from minillama.inference.engine import generate
from minillama.model import Llama
from minillama.tokenizer import Tokenizer
from minillama.train.checkpoint import last_good, load_model

try:
    import lm_eval
    import lm_eval.models  # the harness's own models, which ours would otherwise hide
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table
except ImportError as error:
    raise ConfigError(
        f"lm-evaluation-harness cannot be imported ({error})",
        "install it: pip install 'minillama[lm-eval]'",
    ) from None

NEW_TOKENS = 256
"""Longest text where a task sets none, as in the harness's Hugging Face model."""
Windows = list[tuple[list[int], int]]
"""One request in parts that fit the model: ids, and where the completion begins."""


@register_model("minillama")
class HarnessModel(TemplateLM):
    """A minillama checkpoint as the harness sees it.

    Args:
        checkpoint: the run folder, or a model with its tokenizer.
        step: the checkpoint of the run; the last by default.
        device: where the model is put.
        max_length: use at most so many positions; all that the model has by default.
        others: what the harness tells every model, such as its batch size, which is not needed.
    """

    def __init__(
        self,
        checkpoint: str | Path | tuple[Llama, Tokenizer],
        step: int | None = None,
        device: str = "cpu",
        max_length: int | None = None,
        **others: object,
    ) -> None:
        super().__init__()
        given = isinstance(checkpoint, tuple)
        self.model, self.pieces = checkpoint if given else load_model(checkpoint, step, device)
        self.name = "in memory" if given else str(checkpoint)
        context = self.model.config.max_seq_len
        self.max_length = min(max_length or context, context)

    @property
    def eot_token_id(self) -> int:
        """The end mark."""
        return Tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context: the begin mark, as in training."""
        return Tokenizer.bos_id

    @property
    def tokenizer_name(self) -> str:
        """Where the tokenizer is from."""
        return self.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **others: object
    ) -> list[int]:
        """The ids of a text, behind the begin mark unless ``add_special_tokens`` is False."""
        return self.pieces.encode(string, bos=add_special_tokens is not False)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **others: object,
    ) -> list[tuple[float, bool]]:
        """log P of each continuation in nats, and whether greedy decoding would write it.

        Args:
            requests: the two strings, ids of the context, ids of the continuation.
            disable_tqdm: show no progress.
        """
        whole = [(before + after, len(before)) for _, before, after in requests]
        warn_of_cuts(sum(len(ids) - 1 > self.max_length for ids, _ in whole), len(whole))
        answers = self._judge([self._windows(*request) for request in whole], disable_tqdm)
        for (strings, *_), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", strings, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """log P of each text in nats, every token from as much of the text as fits."""
        texts = [self.tok_encode(*request.args) for request in requests]
        judged = self._judge([self._windows(ids, 1) for ids in texts], disable_tqdm)
        return [value for value, _ in judged]

    def _windows(self, ids: list[int], start: int) -> Windows:
        """``ids[start:]`` in parts that fit ``max_length``; no part if nothing is to be scored."""
        parts = windows(0, ids, start, self.max_length) if start < len(ids) else []
        return [
            ([*part.prefix, *part.rest], len(part.prefix) + len(part.rest) - part.scored)
            for part in parts
        ]

    def _judge(self, requests: list[Windows], quiet: bool) -> list[tuple[float, bool]]:
        """The sum over a request's parts; greedy is what is greedy in all of them."""
        flat = [part for parts in requests for part in parts]
        with tqdm(total=len(flat), desc="log-likelihoods", disable=quiet) as bar:
            judged = iter(judgments(self.model, flat, bar.update))
        answers = []
        for parts in requests:
            found = [next(judged) for _ in parts]
            answers.append((sum(value for value, _ in found), all(best for _, best in found)))
        return answers

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, up to the first of its stop strings.

        A context that leaves no room for the new tokens loses its beginning; half of the model's
        positions are always its own.
        """
        texts, cut = [], 0
        for number, request in enumerate(tqdm(requests, "texts", disable=disable_tqdm)):
            context, given = request.args
            settings = normalize_gen_kwargs(given, NEW_TOKENS)
            room = max(self.max_length - settings["max_gen_toks"], self.max_length // 2)
            prompt = ending(self.pieces, context, room)
            cut += prompt != context
            texts.append(
                generate(
                    self.model, self.pieces, prompt,
                    max_new_tokens=min(
                        settings["max_gen_toks"], self.max_length - len(self.tok_encode(prompt)) + 1
                    ),
                    temperature=settings.get("temperature", 1) if settings["do_sample"] else 0,
                    top_k=settings.get("top_k") or None, top_p=settings.get("top_p"),
                    seed=number, stop=[stop for stop in settings["until"] if stop],
                )
            )  # fmt: skip
            self.cache_hook.add_partial("generate_until", request.args, texts[-1])
        warn_of_cuts(cut, len(requests))
        return texts


def warn_of_cuts(cut: int, requests: int) -> None:
    """Say how many contexts lost their beginning, if any."""
    if cut:
        warnings.warn(
            f"{cut} of {requests} prompts are longer than the model's context: "
            "their beginnings are left out", stacklevel=3,
        )  # fmt: skip


def ending(tokenizer: Tokenizer, text: str, most: int) -> str:
    """As much of the end of a text as makes at most ``most`` ids, the begin mark included."""
    ids, kept = tokenizer.encode(text), most
    while len(tokenizer.encode(text, bos=True)) > most:  # cut off, a piece may become several
        kept -= 1
        text = tokenizer.decode(ids[-kept:]) if kept else ""
    return text


def harness(
    run: tyro.conf.Positional[Path],
    tasks: tuple[str, ...],
    include_path: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    step: int | None = None,
    device: str = "cpu",
    output: Path | None = None,
) -> str:
    """Run tasks of lm-evaluation-harness on a run, and show its table.

    Most of its tasks fetch their data from the Hugging Face hub; a task whose file names
    ``dataset_path: json`` and local files needs no network.

    Args:
        run: the run folder.
        tasks: names of tasks or groups, or task files (.yaml).
        include_path: a folder with task files of your own.
        num_fewshot: examples in the prompt; as the task says by default.
        limit: only the first so many questions of each task.
        step: the checkpoint; the last by default.
        device: where the model is put, such as cuda.
        output: write the results and every answer there, as JSON.

    Raises:
        ConfigError: an unknown task, none, or a limit below 1.
        CheckpointError: no such run or checkpoint.
        DataError: a task's data is not on this machine and cannot be fetched.
    """
    if last_good(run) is None:
        raise CheckpointError(f"{run} has no checkpoint", "name a run folder, or train it first")
    if not tasks or (limit is not None and limit < 1):
        raise ConfigError("there is nothing to ask", "name a task, and a limit of at least 1")
    manager = find_tasks(tasks, include_path)
    try:
        results = lm_eval.simple_evaluate(
            model="minillama",
            model_args={"checkpoint": str(run), "step": step, "device": device},
            tasks=list(tasks), task_manager=manager, num_fewshot=num_fewshot,
            limit=limit, log_samples=output is not None,
        )  # fmt: skip
    except OSError as error:  # the hub's errors are among them
        reason = str(error).split("\n")[0]
        raise DataError(
            f"a task's data cannot be had: {reason}", "connect to the network, or name a task file"
        ) from error
    if output is not None:
        write_json(output, plain(results))
    return make_table(results)


def find_tasks(tasks: tuple[str, ...], include_path: Path | None) -> TaskManager:
    """The harness's index, which knows every one of ``tasks``."""
    manager = TaskManager(include_path=include_path, include_defaults=False)
    files = [name for name in tasks if Path(name).is_file()]
    if not set(tasks) <= {*files, *manager.all_tasks}:
        manager = TaskManager(include_path=include_path)
    for name in set(tasks) - {*files, *manager.all_tasks}:
        raise ConfigError(
            f"the harness has no task '{name}'", nearest(name, manager.all_tasks)[:300]
        )
    return manager


def plain(value: Any) -> Any:
    """A copy of the harness's results in which all that JSON does not know is text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def write_task(questions: Sequence[Question], folder: Path, name: str) -> Path:
    """Write questions as a task of the harness, ``NAME.yaml`` beside ``NAME.jsonl``.

    Where the choices are in the context (WinoGrande), the harness wants the two sides exchanged:
    contexts to choose from, and one ending.

    Returns:
        The task file, which ``harness`` takes for a task's name.
    """
    swapped = any(len({context for context, _ in question.requests}) > 1 for question in questions)
    rows = []
    for question in questions:
        contexts, endings = zip(*question.requests, strict=True)
        rows.append({
            "query": endings[0] if swapped else contexts[0],
            "choices": contexts if swapped else [text.removeprefix(" ") for text in endings],
            "gold": question.answer,
        })  # fmt: skip
    data = folder / f"{name}.jsonl"
    write_text(data, "".join(json.dumps(row) + "\n" for row in rows))
    metrics = ("acc",) if swapped else ("acc", "acc_norm")
    write_json(folder / f"{name}.yaml", {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "gold" if swapped else "{{query}}",
        "doc_to_choice": "choices",
        "doc_to_target": "query" if swapped else "gold",
        "target_delimiter": "" if swapped else " ",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in metrics
        ],
    })  # JSON is YAML, too # fmt: skip
    return folder / f"{name}.yaml"
