"""Checks for the exercises of notebook 17 (beyond the trained context)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minillama.config import ModelConfig, RopeScaling
from minillama.model import rotary_angles, scaled_frequencies
from minillama.teach.checking import close, exercise, expect, same_number, same_tensor


@exercise
def check_full_turns(answer: Callable) -> str:
    """``answer(head_dim, theta, context) -> pairs that make a full turn within the context``."""
    for head_dim, theta, context in ((64, 1e4, 256), (128, 1e4, 2048), (128, 5e5, 8192), (8, 9, 5)):
        given = answer(head_dim, theta, context)
        call = f"full_turns({head_dim}, {theta:g}, {context})"
        turns = [context * theta ** (-2 * i / head_dim) / (2 * math.pi) for i in range(head_dim)]
        right = sum(t >= 1 for t in turns[: head_dim // 2])
        radian = sum(2 * math.pi * t >= 1 for t in turns[: head_dim // 2])
        if right != radian:
            expect(given != radian, f"{call}: a full turn is 2 pi radians, not 1")
        slow = head_dim // 2 - right
        if right != slow:
            expect(given != slow, f"{call}: those are the pairs that do not come round")
        same_number(given, right, call)
    return "41 of LLaMA's 64 pairs, and 13 of the 32 in a head of nano-65b"


@exercise
def check_unseen_pairs(answer: Callable) -> str:
    """``answer(frequencies, new, trained, length) -> bool per pair: does it reach new angles``."""
    plain = rotary_angles(64, 2)[1]
    for trained, length in ((256, 2048), (256, 512), (64, 96)):
        for kind in ("none", "linear", "ntk", "yarn"):
            scaling = None if kind == "none" else RopeScaling(kind, length / trained, trained)
            new = scaled_frequencies(ModelConfig(dim=64, n_heads=1, rope_scaling=scaling))
            given = answer(plain.clone(), new.clone(), trained, length)
            call = f"unseen_pairs ({kind}, {trained} to {length} tokens)"
            came_round = plain * trained >= 2 * math.pi
            beyond = new * length > 1.01 * plain * trained
            expect(given is not None, f"{call} is None; replace `return None` by your answer")
            is_mask = isinstance(given, Tensor) and given.dtype == torch.bool
            expect(is_mask, f"{call} should be a tensor of True and False, one for each pair")
            expect(given.shape == plain.shape, f"{call} should have {len(plain)} entries")
            if bool((beyond & came_round).any()):
                expect(
                    not torch.equal(given, beyond),
                    f"{call} counts pairs that came full circle in training: they know all angles",
                )
            exact = ~came_round & (new * length > plain * trained)
            expect(
                torch.equal(given, beyond & ~came_round) or not torch.equal(given, exact),
                f"{call}: allow 1% for rounding, or pairs count that end where they ended",
            )
            same = torch.equal(given, beyond & ~came_round)
            expect(same, f"{call} has the right shape but not the values")
    return "at 2,048 tokens 19 pairs reach new angles as they are, 18 with ntk, else none"


@exercise
def check_llama3(answer: Callable) -> str:
    """``answer(frequencies, factor, low, high, original) -> frequencies`` as in Llama 3.1."""
    for head_dim, theta, factor, low, high, original in (
        (128, 5e5, 8.0, 1.0, 4.0, 8192),
        (64, 1e4, 4.0, 1.0, 4.0, 256),
        (32, 1e4, 2.0, 0.5, 8.0, 64),
    ):
        plain = rotary_angles(head_dim, 2, theta)[1].double()
        given = answer(plain.clone(), factor, low, high, original)
        call = f"llama3 with factor {factor:g}, low {low:g}, high {high:g}"
        turns = original * plain / (2 * math.pi)
        share = ((turns - low) / (high - low)).clamp(0, 1)
        right = plain * (share + (1 - share) / factor)
        expect(not close(given, plain), f"{call}: nothing was slowed down")
        expect(
            not close(given, plain / factor), f"{call}: every pair was slowed down, as by linear"
        )
        swapped = plain * ((1 - share) + share / factor)
        expect(not close(given, swapped), f"{call}: fast pairs keep their speed, not slow ones")
        radians = (((2 * math.pi * turns) - low) / (high - low)).clamp(0, 1)
        wrong = plain * (radians + (1 - radians) / factor)
        expect(not close(given, wrong), f"{call}: count turns; a turn is 2 pi radians")
        same_tensor(given, right, call, tolerance=1e-9)
    return "the frequencies of Llama 3.1, which reads 131,072 tokens"
