"""Many sequences side by side: a weight that is read once serves a token of each of them.

So sixteen sequences take little longer than one. Prompts may differ in length; rows that are
finished leave the batch, and a prompt that is given several times is read once.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minillama.errors import ConfigError, DataError
from minillama.inference.decoder import Decoder
from minillama.inference.kv_cache import KVCache, new_cache
from minillama.inference.sampling import Sampling
from minillama.model import Llama


def row_seed(seed: int, row: int) -> int:
    """The seed of one sequence of a batch; of the first it is ``seed`` itself.

    A sequence with this seed alone gives the same text as in the batch.
    """
    if row == 0:
        return seed
    digest = hashlib.sha256(f"{seed} {row}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


class Engine:
    """Sequences that grow by one token a step.

    Args:
        model: the model; or a ``Decoder`` of it, which is ready at once.
        prompts: ids, at least one in each.
        sampling: how tokens are drawn.
        seeds: one for each prompt.
        max_new_tokens: steps there must be room for, unless the context is full before.

    Raises:
        ConfigError: a seed has more than 64 bits.
        DataError: a prompt is empty or longer than the context.
    """

    def __init__(
        self,
        model: Llama,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        max_new_tokens: int,
    ) -> None:
        self.context = model.config.max_seq_len
        for seed in seeds:
            if not -(2**63) <= seed < 2**64:
                raise ConfigError(f"seed = {seed}", "choose one of at most 64 bits")
        for prompt in prompts:
            if not 0 < len(prompt) <= self.context:
                raise DataError(
                    f"a prompt of {len(prompt)} tokens, but 1 to {self.context} fit the context",
                    "give each prompt a begin mark, and shorten it if it is too long",
                )
        self.decoder = model if isinstance(model, Decoder) else Decoder(model)
        self.sampling = sampling
        self.ids = [list(prompt) for prompt in prompts]
        """Of each row that is left, the prompt included."""
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        longest = max(map(len, prompts))
        self.capacity = min(self.context, longest + max_new_tokens - 1)  # the last is not read
        self.cache: KVCache | None = None

    @torch.inference_mode()
    def step(self) -> list[int]:
        """Read what is new and draw the next token of every row.

        ``logits (rows, vocab_size)`` are those it was drawn from.

        Raises:
            DataError: the model's output is not finite, or a row fills the context.
        """
        if self.cache is None:
            self.logits = self._read_prompts()
        else:
            last = torch.tensor([ids[-1:] for ids in self.ids], device=self.cache.device)
            x = self.cache.read(self.decoder, last)  # (rows, 1, dim)
            self.logits = self.decoder.output(x[:, 0])
        tokens = self.sampling.choose_each(self.logits, self.generators, self.ids)
        for ids, token in zip(self.ids, tokens, strict=True):
            ids.append(token)
        return tokens

    def _read_prompts(self) -> Tensor:
        """Logits after the last id of each prompt; equal prompts are read once.

        Shorter ones are filled up on the right. Nothing looks ahead, so that changes no logits;
        what it leaves in the cache is overwritten before it is ever seen.
        """
        prompts = [tuple(ids) for ids in self.ids]
        different = list(dict.fromkeys(prompts))
        lengths = [len(prompt) for prompt in different]
        tokens = torch.zeros(len(different), max(lengths), dtype=torch.int64)
        for row, prompt in zip(tokens, different, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)

        like = self.decoder.tok_embeddings.weight
        self.cache = new_cache(self.decoder.config, self.capacity, len(different), like)
        x = self.cache.read(self.decoder, tokens.to(like.device))  # (prompts, longest, dim)
        self.cache.lengths = lengths
        last = [length - 1 for length in lengths]
        logits = self.decoder.output(x[range(len(different)), last])
        if len(different) == len(prompts):
            return logits

        # a row of the cache for each sequence
        number = {prompt: i for i, prompt in enumerate(different)}
        rows = [number[prompt] for prompt in prompts]
        self.cache.select(rows)
        return logits[rows]

    def is_full(self, row: int) -> bool:
        """Whether the row's last token has no place in the context."""
        return len(self.ids[row]) > self.context

    def keep(self, rows: list[int]) -> None:
        """Only these rows go on."""
        if len(rows) < len(self.ids):
            self.ids = [self.ids[row] for row in rows]
            self.generators = [self.generators[row] for row in rows]
            self.cache.select(rows)


def generate_tokens(
    model: Llama,
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
        finished: called after each token, with the prompt's place and its new ids; True ends the
            sequence (the last id is kept).
        batch_size: sequences side by side.

    Raises:
        DataError: a prompt is empty or longer than the context, or the model's output is not
            finite.
    """
    decoder = model if isinstance(model, Decoder) else Decoder(model)
    results: list[list[int]] = [[] for _ in prompts]
    if max_new_tokens == 0:
        return results

    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        seeds = [row_seed(seed, place) for place in places]
        batch = [prompts[place] for place in places]
        engine = Engine(decoder, batch, sampling, seeds, max_new_tokens)
        while places:
            for place, token in zip(places, engine.step(), strict=True):
                results[place].append(token)

            # rows that are finished leave
            left = []
            for row, place in enumerate(places):
                new = results[place]
                over = finished(place, new) or len(new) == max_new_tokens
                if not over and not engine.is_full(row):
                    left.append(row)
            engine.keep(left)
            places = [places[row] for row in left]
    return results
