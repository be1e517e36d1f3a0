"""The backward of a transformer block written by hand (Section 2.4).

Autograd keeps every intermediate result: 10d + 4f numbers a token, for a width d and a feed-forward
width f (see ``parallel.memory.activation_bytes``). The paper saves only "the activations that are
expensive to compute, such as the outputs of linear layers", "by manually implementing the backward
function for the transformer layers". Here one ``autograd.Function`` is the whole block. It keeps

- the block's input x, the turned queries and keys, the values, the attention's output,
  h = x + wo(attention), w1 b and w3 b: 6d + 2f numbers, 1.8 times less. The norms, SiLU and the
  product of the gate are computed again: no matrix is multiplied twice.
- With ``lean``, not v and h either: 4d + 2f, 2.2 times less, for one product with wv and one with
  wo (at f = 8d / 3 that is 2 d^2 beside the 36 d^2 of a block's step, so 6% more arithmetic).

and one logsumexp for each head. There are six kinds of operation (notebook 07): sum, matrix,
RMSNorm, rotary, attention and gate.

The same block runs when its matrices are split over processes (``parallel.tensor``): what they tell
one another is ``exchange.gather`` before the products and ``exchange.scatter`` after them. Each is
the other's backward.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from minillama.config import ModelConfig
from minillama.efficient.flash_attention import fused_backward, fused_forward
from minillama.model.attention import Mix, causal_attention
from minillama.model.rotary import apply_rotary
from minillama.model.transformer import Llama, TransformerBlock


class Weights(NamedTuple):
    """The parameters of a block, in the order in which the block lists them."""

    wq: Tensor
    wk: Tensor
    wv: Tensor
    wo: Tensor
    w1: Tensor
    w2: Tensor
    w3: Tensor
    attention_norm: Tensor
    ffn_norm: Tensor

    def to(self, dtype: torch.dtype) -> "Weights":
        """The matrices in the dtype of the products; the norms' vectors stay as they are."""
        return Weights(*(w.to(dtype) if w.ndim == 2 else w for w in self))


class Exchange:
    """What a block tells the processes that hold the rest of its matrices: alone, nothing."""

    def piece(self, weight: Tensor) -> Tensor:
        """This process's piece of a parameter, with autograd."""
        return weight

    def gather(self, x: Tensor) -> Tensor:
        """``(batch, seq, dim)`` of the whole sequence, from the part that this process holds."""
        return x

    def scatter(self, x: Tensor) -> Tensor:
        """The sum of all processes' ``x (batch, seq, dim)``: of it, this process's part."""
        return x

    def total(self, grad: Tensor) -> Tensor:
        """A norm's gradient ``(dim,)``, summed over the parts of the sequence."""
        return grad


class Settings(NamedTuple):
    """What a block has besides tensors."""

    head_dim: int
    eps: float
    """Of the norms."""
    lean: bool
    dtype: torch.dtype
    """In which matrices are multiplied: bfloat16 under autocast, else that of the weights."""
    exchange: Exchange


class _Block(torch.autograd.Function):
    """x + attention(norm(x)), then x + feed_forward(norm(x)), and the gradients of both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, settings: Settings, *weights: Tensor) -> Tensor:
        exchange = settings.exchange
        with torch.autocast(x.device.type, enabled=False):
            w = Weights(*weights).to(settings.dtype)

            # h = x + wo(attention), from a = norm(x)
            a, _, _ = _norm(x, w.attention_norm, settings.eps)
            a = exchange.gather(a.to(settings.dtype))
            q = _split_heads(F.linear(a, w.wq), settings)  # (B, T, H, head_dim)
            k = _split_heads(F.linear(a, w.wk), settings)
            v = _split_heads(F.linear(a, w.wv), settings)
            q = apply_rotary(q, table)
            k = apply_rotary(k, table)
            mixed, state = fused_forward(*map(_heads_first, (q, k, v)))
            mixed = rearrange(mixed, "b h t d -> b t (h d)")
            h = x + exchange.scatter(F.linear(mixed, w.wo))

            # y = h + w2(SiLU(gate) * up), from b = norm(h)
            b, _, _ = _norm(h, w.ffn_norm, settings.eps)
            b = exchange.gather(b.to(settings.dtype))
            gate = F.linear(b, w.w1)  # (B, T, f)
            up = F.linear(b, w.w3)
            y = h + exchange.scatter(F.linear(F.silu(gate) * up, w.w2))

        again = (None, None) if settings.lean else (v, h)
        ctx.settings = settings
        ctx.save_for_backward(x, table, q, k, mixed, gate, up, *again, *weights, *state)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        settings, exchange = ctx.settings, ctx.settings.exchange
        x, table, q, k, mixed, gate, up, v, h, *rest = ctx.saved_tensors
        n_weights = len(Weights._fields)
        weights, state = rest[:n_weights], tuple(rest[n_weights:])
        with torch.autocast(x.device.type, enabled=False):
            w = Weights(*weights).to(settings.dtype)

            # the norms, and when lean v and h, once more
            a, unit, scale = _norm(x, w.attention_norm, settings.eps)
            a = exchange.gather(a.to(settings.dtype))
            if settings.lean:
                v = _split_heads(F.linear(a, w.wv), settings)
                h = x + exchange.scatter(F.linear(mixed, w.wo))

            # from the last line of the forward to the first
            grad_h, of_feed_forward = _feed_forward_backward(grad, h, gate, up, w, settings)
            grad_sum = exchange.gather(grad_h.to(settings.dtype))
            grad_mixed = (grad_sum @ w.wo).view_as(q)
            of_heads = _attention_backward(grad_mixed, q, k, v, mixed.view_as(q), state)
            grad_q, grad_k, grad_v = of_heads  # (B, T, H, head_dim)
            grad_q = _rotary_backward(grad_q, table).flatten(-2)
            grad_k = _rotary_backward(grad_k, table).flatten(-2)
            grad_v = grad_v.flatten(-2)
            grad_a = grad_q @ w.wq
            _add_product(grad_a, grad_k, w.wk)
            _add_product(grad_a, grad_v, w.wv)
            grad_a = exchange.scatter(grad_a)
            grad_x, grad_norm = _norm_backward(grad_a, unit, scale, w.attention_norm)
            grad_x = grad_x.add_(grad_h).type_as(x)  # x went two ways

            grads = Weights(
                wq=_outer(grad_q, a),
                wk=_outer(grad_k, a),
                wv=_outer(grad_v, a),
                wo=_outer(grad_sum, mixed),
                attention_norm=exchange.total(grad_norm),
                **of_feed_forward,
            )
            grads = [g.to(weight.dtype) for g, weight in zip(grads, weights, strict=True)]
        return grad_x, None, None, *grads


def _feed_forward_backward(
    grad: Tensor, h: Tensor, gate: Tensor, up: Tensor, w: Weights, settings: Settings
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients of h + w2(SiLU(gate) * up), with b = norm(h): that of h, and of the weights."""
    exchange = settings.exchange
    b, unit, scale = _norm(h, w.ffn_norm, settings.eps)
    b = exchange.gather(b.to(settings.dtype))
    grad_sum = exchange.gather(grad.to(settings.dtype))

    # the last matrix
    grads = {}
    silu = F.silu(gate)
    grads["w2"] = _outer(grad_sum, silu * up)
    grad_product = grad_sum @ w.w2

    # the gate: SiLU'(z) = s (1 + z (1 - s)) with s = sigmoid(z); torch has it in one pass
    grad_up = silu.mul_(grad_product)
    grad_gate = torch.ops.aten.silu_backward(grad_product.mul_(up), gate)

    # the first two matrices, and the norm
    grads["w1"] = _outer(grad_gate, b)
    grads["w3"] = _outer(grad_up, b)
    grad_b = grad_gate @ w.w1
    _add_product(grad_b, grad_up, w.w3)
    grad_b = exchange.scatter(grad_b)
    grad_h, grad_norm = _norm_backward(grad_b, unit, scale, w.ffn_norm)
    grads["ffn_norm"] = exchange.total(grad_norm)
    return grad_h.add_(grad), grads  # h went two ways


def _attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mixed: Tensor, state: tuple[Tensor, ...]
) -> Iterator[Tensor]:
    """Gradients of q, k and v from that of ``mixed``, all ``(batch, seq, heads, head_dim)``."""
    by_head = map(_heads_first, (grad, q, k, v, mixed))
    grads = fused_backward(*by_head, state)
    return (rearrange(g, "b h t d -> b t h d") for g in grads)


def _rotary_backward(grad: Tensor, table: Tensor) -> Tensor:
    """Turned back: the transpose of a rotation is the one by the opposite angle."""
    cosines, sines = table.unbind(-1)
    opposite = torch.stack((cosines, -sines), dim=-1)
    return apply_rotary(grad, opposite)


def _split_heads(x: Tensor, settings: Settings) -> Tensor:
    return rearrange(x, "b t (h d) -> b t h d", d=settings.head_dim)


def _heads_first(x: Tensor) -> Tensor:
    return rearrange(x, "b t h d -> b h t d")


def _norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """RMSNorm as in ``model.norm``: the output, x / rms(x), and 1 / rms(x)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean_square = wide.pow(2).mean(-1, keepdim=True)
    scale = torch.rsqrt(mean_square + eps)
    unit = (wide * scale).type_as(x)
    return unit * weight, unit, scale


def _norm_backward(
    grad: Tensor, unit: Tensor, scale: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight.

    With u = x / rms(x), the gradient of u is g = grad * weight, and that of x is
    (g - u mean(g * u)) / rms(x): the length of x does not matter, so nothing flows along it.
    """
    grad, unit, weight = (t.to(scale.dtype) for t in (grad, unit, weight))
    product = grad * unit
    mean = (product @ weight / weight.numel()).unsqueeze(-1)  # of g * u
    grad_x = grad * weight
    grad_x.addcmul_(unit, mean, value=-1).mul_(scale)
    grad_weight = product.flatten(0, -2).sum(0)
    return grad_x, grad_weight


def _outer(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of a matrix: the sum over positions of grad x^T."""
    return grad.flatten(0, -2).mT @ x.flatten(0, -2)


def _add_product(total: Tensor, grad: Tensor, matrix: Tensor) -> None:
    """Add to the gradient of an input what comes from one more matrix that it went into."""
    total.flatten(0, -2).addmm_(grad.flatten(0, -2), matrix)


class BlockByHand(TransformerBlock):
    """A block with the backward above; the same parameters under the same names.

    Without gradients, or with another ``mix``, it is the plain block. Its linear layers are not
    called as modules: what hooks the whole block (DDP, FSDP, recomputing) sees it, what hooks them
    does not, and ``exchange`` does it instead. There is no second derivative.
    """

    exchange: Exchange = Exchange()

    def __init__(self, config: ModelConfig, lean: bool = True) -> None:
        super().__init__(config)
        self.lean = lean

    def forward(self, x: Tensor, table: Tensor, mix: Mix = causal_attention) -> Tensor:
        """As in ``TransformerBlock``."""
        if mix is not causal_attention or not torch.is_grad_enabled():
            return super().forward(x, table, mix)
        weights = Weights(*map(self.exchange.piece, self.parameters()))
        lower = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if lower else weights.wq.dtype
        head_dim, eps = self.attention.head_dim, self.ffn_norm.eps
        settings = Settings(head_dim, eps, self.lean, dtype, self.exchange)
        return _Block.apply(x, table, settings, *weights)


def differentiate_by_hand(model: Llama, lean: bool = True) -> Llama:
    """Give every block of ``model`` the hand-written backward, in place, and return the model.

    Nothing else changes: not the parameters, their names, or the model's file. ``lean`` keeps 4d +
    2f numbers a token instead of 6d + 2f and multiplies by wv and wo once more.
    """
    for i, block in enumerate(model.layers):
        with torch.device("meta"):  # its own weights are never there
            by_hand = BlockByHand(model.config, lean)
        for name, part in block.named_children():
            setattr(by_hand, name, part)
        model.layers[i] = by_hand.train(block.training)
    return model
