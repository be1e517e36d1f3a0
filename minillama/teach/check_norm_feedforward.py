"""Checks for the exercises of notebook 03 (RMSNorm and SwiGLU)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from minillama.config import ModelConfig
from minillama.teach.checking import close, exercise, expect, same_number, same_tensor, seeded


@exercise
def check_rms_norm_backward(answer: Callable) -> str:
    """``answer(x, weight, eps, upstream) -> (gradient of x, gradient of weight)``."""
    for shape in ((4,), (3, 8), (2, 5, 6)):
        x, upstream = seeded(*shape, seed=1), seeded(*shape, seed=2)
        weight, eps = seeded(shape[-1], seed=3), 1e-6
        x_leaf, weight_leaf = x.clone().requires_grad_(), weight.clone().requires_grad_()
        inverse = torch.rsqrt(x_leaf.pow(2).mean(-1, keepdim=True) + eps)
        output = x_leaf * inverse * weight_leaf
        grad_x, grad_weight = torch.autograd.grad(output, (x_leaf, weight_leaf), upstream)
        given = answer(x.clone(), weight.clone(), eps, upstream.clone())
        expect(given is not None, "your function returned None; return the two gradients")
        pair = isinstance(given, tuple | list) and len(given) == 2
        expect(pair, "return a pair: the gradient of x, then the gradient of weight")
        constant = (upstream * weight * inverse).detach()
        expect(
            not close(given[0], constant),
            "in the gradient of x you held the root mean square constant, but it depends on x too",
        )
        unscaled = close(
            given[0],
            constant
            - (x * inverse.detach() ** 2)
            * (upstream * weight * x * inverse.detach()).sum(-1, keepdim=True),
        )
        expect(not unscaled, "the second term of the gradient of x needs a mean where you sum")
        same_tensor(given[0], grad_x, f"the gradient of x for x of shape {shape}")
        not_summed = len(shape) > 1 and getattr(given[1], "shape", None) == x.shape
        expect(not not_summed, "one weight serves all positions: sum its gradient over them")
        same_tensor(given[1], grad_weight, f"the gradient of weight for x of shape {shape}")
    return "both gradients equal autograd's for vectors, matrices and batches"


@exercise
def check_layer_norm(answer: Callable) -> str:
    """``answer(x, rms_norm) -> LayerNorm(x)``; ``rms_norm`` is an ``RMSNorm`` with weight 1."""

    def rms_norm(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    for shape in ((2, 3, 8), (4, 16)):
        x = seeded(*shape) + 3.0
        given = answer(x.clone(), rms_norm)
        expect(not close(given, rms_norm(x)), "that is RMSNorm itself: center the vector first")
        over_all = rms_norm(x - x.mean())
        expect(
            not close(given, over_all),
            "you subtracted one mean for the whole tensor: each "
            "position needs its own, over its features",
        )
        late = rms_norm(x) - rms_norm(x).mean(-1, keepdim=True)
        expect(not close(given, late), "you centered after normalizing; the order matters")
        same_tensor(given, F.layer_norm(x, shape[-1:], eps=1e-6), f"LayerNorm of shape {shape}")
    return "LayerNorm is RMSNorm of the centered vector; LLaMA leaves the centering out"


@exercise
def check_hidden_dim(answer: Callable) -> str:
    """``answer(dim, multiple_of) -> width of the SwiGLU layer``."""
    cases = [(4096, 256), (5120, 256), (6656, 256), (8192, 256), (48, 16), (96, 1), (384, 32)]
    for dim, multiple_of in cases:
        given = answer(dim, multiple_of)
        call = f"hidden_dim({dim}, {multiple_of})"
        right = ModelConfig(dim=dim, n_heads=1, multiple_of=multiple_of).hidden_dim
        expect(
            given != 4 * dim,
            f"{call} = {given} is the width of a ReLU layer: two matrices there, three here",
        )
        short = isinstance(given, int) and given < right and given % multiple_of == 0
        expect(not short, f"{call} = {given} was rounded down; round up")
        uneven = isinstance(given, int) and given % multiple_of != 0
        expect(not uneven, f"{call} = {given} is not a multiple of {multiple_of}")
        whole = given is None or isinstance(given, int)
        expect(whole, f"{call} should be a whole number (int) but is a {type(given).__name__}")
        same_number(given, right, call)
    return "11008, 13824, 17920 and 22016 for the paper's sizes"
