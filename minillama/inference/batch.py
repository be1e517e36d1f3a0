"""Many sequences side by side: a weight that is read once serves a token of each of them.

So sixteen sequences take little longer than one. Prompts may differ in length; rows that are
finished leave the batch, and a prompt that is given several times is read once.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch

from minillama.errors import ConfigError, DataError
from minillama.inference.decoder import Decoder, as_decoder
from minillama.inference.kv_cache import new_cache
from minillama.inference.sampling import Sampling
from minillama.model import Llama


def row_seed(seed: int, row: int) -> int:
    """The seed of one sequence of a batch; of the first it is ``seed`` itself.

    A sequence with this seed alone gives the same text as in the batch.
    """
    if row == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {row}".encode()).digest()[:8], "little")


class Batch:
    """Sequences that grow by one token a step.

    ``ids`` holds the ids of each row that is left, prompt included.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        max_new_tokens: int,
    ) -> None:
        """Reserve the cache; nothing is read yet.

        Args:
            decoder: the model.
            prompts: ids, at least one in each.
            sampling: how tokens are drawn.
            seeds: one for each prompt.
            max_new_tokens: steps there must be room for, unless the context is full before.

        Raises:
            ConfigError: a seed has more than 64 bits.
            DataError: a prompt is empty or longer than the context.
        """
        if bad := [seed for seed in seeds if not -(2**63) <= seed < 2**64]:
            raise ConfigError(f"seed = {bad[0]}", "choose one of at most 64 bits")
        context = decoder.config.max_seq_len
        for prompt in prompts:
            if not 0 < len(prompt) <= context:
                raise DataError(
                    f"a prompt of {len(prompt)} tokens, but 1 to {context} fit the context",
                    "give each prompt a begin mark, and shorten it if it is too long",
                )
        self.decoder, self.sampling = decoder, sampling
        self.ids = [list(prompt) for prompt in prompts]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.first = list(dict.fromkeys(map(tuple, prompts)))  # each different prompt once
        longest = max(map(len, prompts))
        self.capacity = min(context, longest + max_new_tokens - 1)  # the last token is not read
        self.cache = new_cache(
            decoder.config, self.capacity, len(self.first), like=decoder.tok_embeddings.weight
        )

    def step(self) -> list[int]:
        """Read what is new and draw the next token of every row.

        Raises:
            DataError: the model's output is not finite, or a row fills the context.
        """
        if self.first:
            logits = self.decoder.prefill(self.first, self.cache)
            number = {prompt: i for i, prompt in enumerate(self.first)}
            owner = [number[tuple(ids)] for ids in self.ids]
            self.first = []
            if owner != list(range(len(number))):
                logits = logits[owner]
                self._select(owner)
        else:
            last = [ids[-1] for ids in self.ids]
            logits = self.decoder.step(last, self.cache)
        tokens = self.sampling.choose_each(logits, self.generators, self.ids)
        for ids, token in zip(self.ids, tokens, strict=True):
            ids.append(token)
        return tokens

    def keep(self, rows: list[int]) -> None:
        """Only these rows go on."""
        if len(rows) < len(self.ids):
            self.ids = [self.ids[row] for row in rows]
            self.generators = [self.generators[row] for row in rows]
            self._select(rows)

    def _select(self, rows: list[int]) -> None:
        self.cache.select(rows)


def generate_tokens(
    model: Llama | Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    max_new_tokens: int,
    *,
    seed: int = 0,
    finished: Callable[[int, list[int]], bool] = lambda row, new: False,
    batch_size: int = 16,
) -> list[list[int]]:
    """The ids that follow each prompt, in batches of prompts of like length.

    Each sequence is what it would be alone, with the seed ``row_seed(seed, its place)``. Giving a
    prompt n times draws n samples of it, and reads it once.

    Args:
        model: the model; or a ``Decoder`` of it, which saves packing its weights for every call.
        prompts: ids, at least one in each.
        sampling: how tokens are drawn.
        max_new_tokens: end after so many, or when the context is full.
        seed: same seed, same ids.
        finished: asked after each token, with the prompt's place and its new ids; True ends the
            sequence (the last id is kept).
        batch_size: sequences side by side.

    Raises:
        DataError: a prompt is empty or longer than the context, or the model's output is not
            finite.
    """
    decoder = as_decoder(model)
    results: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    for start in range(0, len(order) if max_new_tokens > 0 else 0, batch_size):
        rows = order[start : start + batch_size]
        seeds = [row_seed(seed, i) for i in rows]
        batch = Batch(decoder, [prompts[i] for i in rows], sampling, seeds, max_new_tokens)
        while rows:
            for i, token in zip(rows, batch.step(), strict=True):
                results[i].append(token)
            left = [
                n for n, i in enumerate(rows)
                if not finished(i, results[i])
                and len(results[i]) < max_new_tokens
                and len(batch.ids[n]) <= decoder.config.max_seq_len
            ]  # fmt: skip
            batch.keep(left)
            rows = [rows[n] for n in left]
    return results
