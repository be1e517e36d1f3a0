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
from functools import cached_property
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from minillama.errors import CheckpointError, ConfigError, DataError, nearest
from minillama.evaluate.generation import cut_at
from minillama.evaluate.multiple_choice import score_requests
from minillama.files import write_text
from minillama.inference import Decoder, Sampling, generate_tokens
from minillama.model import Llama
from minillama.tokenizer import Tokenizer
from minillama.train.checkpoint import last_good, load_model

try:
    import lm_eval
    import lm_eval.models  # the harness's own models, which ours would otherwise hide
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import Collator, normalize_gen_kwargs
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import handle_non_serializable, make_table
except ImportError as error:
    raise ConfigError(
        f"lm-evaluation-harness cannot be imported ({error})",
        "install it: pip install 'minillama[lm-eval]'",
    ) from None

NEW_TOKENS = 256
"""Longest text where a task sets none, as in the harness's Hugging Face model."""
BATCH_SIZE = 32
"""Texts that are written side by side."""
TokenRequest = tuple[tuple[str, str], list[int], list[int]]
"""Context and continuation as strings, and the ids of each."""


@register_model("minillama")
class HarnessModel(TemplateLM):
    """A minillama checkpoint as the harness sees it.

    ``checkpoint`` is a run folder (with ``step``, the last by default, and ``device``), or a model
    with its tokenizer; ``max_length`` positions are used, all by default. The ``others`` are what
    the harness tells every model, such as its batch size.
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

    @cached_property
    def decoder(self) -> Decoder:
        """The weights as generation wants them, packed once."""
        return Decoder(self.model)

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
        self, requests: list[TokenRequest], disable_tqdm: bool = False, **others: object
    ) -> list[tuple[float, bool]]:
        """log P of each continuation in nats, and whether greedy decoding would write it."""
        encoded, sizes = [], []
        for _, context, continuation in requests:
            encoded.append((context + continuation, len(context)))
            sizes.append(len(context) + len(continuation) - 1)
        self._warn_of_cuts(sizes, self.max_length)
        answers = self._score(encoded, disable_tqdm)
        for request, answer in zip(requests, answers, strict=True):
            strings = request[0]
            self.cache_hook.add_partial("loglikelihood", strings, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """log P of each text in nats, every token from as much of the text as fits."""
        encoded = [(self.tok_encode(*request.args), 1) for request in requests]
        return [value for value, _ in self._score(encoded, disable_tqdm)]

    def _score(self, encoded: list[tuple[list[int], int]], quiet: bool) -> list[tuple[float, bool]]:
        with tqdm(desc="log-likelihoods", unit="window", disable=quiet) as bar:
            return score_requests(self.model, encoded, bar.update, self.max_length)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, up to the first of its stop strings.

        A context that leaves no room for the new tokens loses its beginning; half of the model's
        positions are always its own.
        """
        collator = Collator(
            [request.args for request in requests],
            sort_fn=lambda args: -len(args[0]),
            group_by="gen_kwargs",
            group_fn=lambda args: args[1],
        )
        # Batches of the same settings, the longest first.
        texts = []
        with tqdm(total=len(requests), desc="texts", disable=disable_tqdm) as bar:
            for seed, batch in enumerate(collator.get_batched(n=BATCH_SIZE)):
                texts += self._write([context for context, _ in batch], batch[0][1], seed)
                bar.update(len(batch))
        texts = collator.get_original(texts)
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _write(self, contexts: list[str], gen_kwargs: dict[str, Any], seed: int) -> list[str]:
        # What the harness asks for.
        settings = normalize_gen_kwargs(gen_kwargs, NEW_TOKENS)
        new_tokens = settings["max_gen_toks"]
        until = [stop for stop in settings["until"] if stop]
        sampling = Sampling(
            temperature=settings.get("temperature", 1) if settings["do_sample"] else 0,
            top_k=settings.get("top_k") or None,
            top_p=settings.get("top_p"),
        )

        # The ends of the contexts, side by side.
        room = max(self.max_length - new_tokens, self.max_length // 2)
        encoded = [self.tok_encode(context) for context in contexts]
        self._warn_of_cuts([len(ids) for ids in encoded], room)
        prompts = [ids[-room:] for ids in encoded]

        def finished(row: int, new: list[int]) -> bool:
            text = self.pieces.decode(new)
            full = len(prompts[row]) + len(new) > self.max_length
            return full or new[-1] == Tokenizer.eos_id or any(stop in text for stop in until)

        written = generate_tokens(
            self.decoder,
            prompts,
            sampling,
            new_tokens,
            seed=seed,
            finished=finished,
            batch_size=BATCH_SIZE,
        )
        # Decoding drops the blank before the first word, as the harness's Hugging Face model does.
        return [cut_at(self.pieces.decode(ids), until) for ids in written]

    def _warn_of_cuts(self, sizes: list[int], room: int) -> None:
        cut = sum(size > room for size in sizes)
        if cut:
            prompts = f"{cut} of {len(sizes)} prompts are longer than the model's context"
            warnings.warn(f"{prompts}: their beginnings are left out", stacklevel=3)


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
    manager = find_harness_tasks(tasks, include_path)
    try:
        results = lm_eval.simple_evaluate(
            model="minillama",
            model_args={"checkpoint": str(run), "step": step, "device": device},
            tasks=list(tasks),
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            log_samples=output is not None,
        )
    except OSError as error:  # the hub's errors are among them
        reason = str(error).split("\n")[0]
        raise DataError(
            f"a task's data cannot be had: {reason}", "connect to the network, or name a task file"
        ) from error
    if output is not None:
        write_text(output, json.dumps(results, indent=2, default=handle_non_serializable))
    return make_table(results)


def find_harness_tasks(tasks: tuple[str, ...], include_path: Path | None) -> TaskManager:
    """The harness's index, which knows every one of ``tasks``. Raises ``ConfigError`` if not."""
    manager = TaskManager(include_path=include_path, include_defaults=False)
    names = {name for name in tasks if not Path(name).is_file()}
    if not names <= set(manager.all_tasks):
        manager = TaskManager(include_path=include_path)
    for name in names - set(manager.all_tasks):
        hint = nearest(name, manager.all_tasks)[:300]
        raise ConfigError(f"the harness has no task '{name}'", hint)
    return manager
