"""Weights in 8 bits: a quarter of the memory to read for each token.

Each row of a matrix (the weights of one output) is stored as whole numbers from -127 to 127 and one
scale. Only weights are rounded; the kernel multiplies them with activations in bfloat16 and adds
up in float32. Embeddings and norms stay as they are: of them little is read.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minillama.inference.decoder import Decoder, Product
from minillama.model import Llama

BLOCK = 32
"""torch's kernel reads inputs in blocks and does not look where the last one ends."""


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round ``weight (out, in)`` to whole numbers and a scale a row.

    The scale is the smallest bfloat16, the kernel's type, that covers the largest weight; so it is
    exact, and no weight is off by more than half a scale.

    Returns:
        int8 ``(out, in)`` and bfloat16 ``(out,)`` with ``weight`` about ``int8 * scale``.
    """
    weight = weight.float()
    largest = weight.abs().amax(1)
    wanted = largest.clamp(min=1e-30) / 127
    scale = wanted.bfloat16()
    next_up = scale.view(torch.int16) + 1
    next_up = next_up.view(torch.bfloat16)
    scale = torch.where(scale < wanted, next_up, scale)
    rounded = (weight / scale.float()[:, None]).round()
    return rounded.to(torch.int8), scale


def int8(*weights: Tensor) -> Product:
    """As ``decoder.transposed``: the product with ``weights``, which are rounded to 8 bits."""
    numbers, scales = quantize(torch.cat(weights))
    missing = -numbers.shape[1] % BLOCK
    if missing:
        numbers = F.pad(numbers, (0, missing))  # products with 0

    def product(x: Tensor) -> Tensor:
        inputs = x.bfloat16()
        if missing:
            inputs = F.pad(inputs, (0, missing))
        products = torch._weight_int8pack_mm(inputs, numbers, scales)
        return products.to(x.dtype)

    return product


def quantized(model: Llama) -> Decoder:
    """A decoder of ``model`` whose matrices have 8 bits a weight."""
    return Decoder(model, pack=int8)
