"""Checks for the exercises of notebook 03 (RMSNorm and SwiGLU)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minillama.config import ModelConfig
from minillama.teach.checking import diagnose, exercise, expect, number, seeded, several


def _rms_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


@exercise
def check_rms_norm_backward(answer: Callable) -> str:
    """``answer(x, weight, eps, upstream) -> (gradient of x, gradient of weight)``."""
    for shape in ((4,), (3, 8), (2, 5, 6)):
        x, upstream = seeded(*shape, seed=1), seeded(*shape, seed=2)
        weight, eps = seeded(shape[-1], seed=3), 1e-6
        leaves = [t.clone().requires_grad_() for t in (x, weight)]
        of_x, of_weight = torch.autograd.grad(_rms_norm(leaves[0]) * leaves[1], leaves, upstream)

        inverse = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        constant = upstream * weight * inverse
        along = (upstream * weight * x * inverse).sum(-1, keepdim=True)
        wrong = {
            "you held the root mean square constant, but it depends on x too": constant,
            "its second term needs a mean where you sum": constant - x * inverse**2 * along,
        }
        given = answer(x.clone(), weight.clone(), eps, upstream.clone())
        for_x, for_weight = several(given, 2, "the two gradients")
        diagnose(f"the gradient of x for x of shape {shape}", for_x, of_x, wrong)
        summed = len(shape) == 1 or getattr(for_weight, "shape", None) != x.shape
        expect(summed, "one weight serves all positions: sum its gradient over them")
        diagnose(f"the gradient of weight for x of shape {shape}", for_weight, of_weight)
    return "both gradients equal autograd's for vectors, matrices and batches"


@exercise
def check_layer_norm(answer: Callable) -> str:
    """``answer(x, rms_norm) -> LayerNorm(x)``; ``rms_norm`` is an ``RMSNorm`` with weight 1."""
    for shape in ((2, 3, 8), (4, 16)):
        x = seeded(*shape) + 3.0
        late = _rms_norm(x) - _rms_norm(x).mean(-1, keepdim=True)
        wrong = {
            "that is RMSNorm itself: center the vector first": _rms_norm(x),
            "you subtracted one mean for the whole tensor: each position needs its own, over its "
            "features": _rms_norm(x - x.mean()),
            "you centered after normalizing; the order matters": late,
        }
        right = F.layer_norm(x, shape[-1:], eps=1e-6)
        diagnose(f"LayerNorm of shape {shape}", answer(x.clone(), _rms_norm), right, wrong)
    return "LayerNorm is RMSNorm of the centered vector; LLaMA leaves the centering out"


@exercise
def check_hidden_dim(answer: Callable) -> str:
    """``answer(dim, multiple_of) -> width of the SwiGLU layer``."""
    cases = [(4096, 256), (5120, 256), (6656, 256), (8192, 256), (48, 16), (96, 1), (384, 32)]
    for dim, multiple in cases:
        right = ModelConfig(dim=dim, n_heads=1, multiple_of=multiple).hidden_dim
        wrong = {
            "that is the width of a ReLU layer: two matrices there, three here": 4 * dim,
            "it was rounded down; round up": 8 * dim // 3 // multiple * multiple,
        }
        given, call = answer(dim, multiple), f"hidden_dim({dim}, {multiple})"
        width = number(given)
        whole = given is None or isinstance(width, int)
        expect(whole, f"{call} should be a whole number (int) but is a {type(given).__name__}")
        uneven = given is not None and width % multiple != 0
        expect(not uneven, f"{call} = {given} is not a multiple of {multiple}")
        diagnose(call, given, right, wrong)
    return "11008, 13824, 17920 and 22016 for the paper's sizes"
