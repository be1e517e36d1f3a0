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

and one logsumexp for each head. Queries and keys are kept after the rotation, which costs no byte
more and saves turning them again; their gradients are turned back, by the opposite angles.

The same block runs when its matrices are split over processes (``parallel.tensor``): each has some
of the heads and some of the feed-forward's features, and what the processes tell one another stands
here as ``exchange.gather`` before the products and ``exchange.scatter`` after them. They are each
other's backward. Alone, they return what they are given.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minillama.efficient.flash_attention import fused_backward, fused_forward
from minillama.model.attention import Mix, causal_attention
from minillama.model.rotary import apply_rotary
from minillama.model.transformer import Llama, TransformerBlock


class Weights(NamedTuple):
    """The parameters of a block, in the order of its computation."""

    attention_norm: Tensor
    wq: Tensor
    wk: Tensor
    wv: Tensor
    wo: Tensor
    ffn_norm: Tensor
    w1: Tensor
    w3: Tensor
    w2: Tensor

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
    eps: tuple[float, float]
    """Of the norms before attention and feed-forward."""
    lean: bool
    dtype: torch.dtype
    """In which matrices are multiplied: bfloat16 under autocast, else that of the weights."""
    exchange: Exchange


class _Block(torch.autograd.Function):
    """x + attention(norm(x)), then x + feed_forward(norm(x)), and the gradients of both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, settings: Settings, *weights: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            w, exchange = Weights(*weights).to(settings.dtype), settings.exchange
            a = _norm(x, w.attention_norm, settings.eps[0])[0].to(settings.dtype)
            a = exchange.gather(a)
            heads = (-1, settings.head_dim)
            q = apply_rotary(F.linear(a, w.wq).unflatten(-1, heads), table)  # (B, T, H, head_dim)
            k = apply_rotary(F.linear(a, w.wk).unflatten(-1, heads), table)
            v = F.linear(a, w.wv).unflatten(-1, heads)
            mixed, state = fused_forward(*(t.transpose(1, 2) for t in (q, k, v)))
            mixed = mixed.transpose(1, 2).flatten(-2)  # (B, T, d)
            h = x + exchange.scatter(F.linear(mixed, w.wo))
            b = _norm(h, w.ffn_norm, settings.eps[1])[0].to(settings.dtype)
            b = exchange.gather(b)
            gate, up = F.linear(b, w.w1), F.linear(b, w.w3)  # (B, T, f)
            y = h + exchange.scatter(F.linear(F.silu(gate) * up, w.w2))
        again = (None, None) if settings.lean else (v, h)
        ctx.settings = settings
        ctx.save_for_backward(x, table, q, k, mixed, gate, up, *again, *weights, *state)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, table, q, k, mixed, gate, up, v, h, *rest = ctx.saved_tensors
        weights, state = rest[: len(Weights._fields)], tuple(rest[len(Weights._fields) :])
        with torch.autocast(x.device.type, enabled=False):
            w, settings = Weights(*weights).to(ctx.settings.dtype), ctx.settings
            exchange = settings.exchange
            a, unit, scale = _norm(x, w.attention_norm, settings.eps[0])
            a = exchange.gather(a.to(settings.dtype))
            if settings.lean:
                v = F.linear(a, w.wv).unflatten(-1, (-1, settings.head_dim))
                h = x + exchange.scatter(F.linear(mixed, w.wo))
            grad_h, grad_ffn = _feed_forward_backward(grad, h, gate, up, w, settings)

            grad_sum = exchange.gather(grad_h.to(settings.dtype))
            grad_mixed = (grad_sum @ w.wo).view_as(q)
            by_head = (t.transpose(1, 2) for t in (grad_mixed, q, k, v, mixed.view_as(q)))
            of_heads = fused_backward(*by_head, state)
            grad_q, grad_k, grad_v = (t.transpose(1, 2) for t in of_heads)  # (B, T, H, head_dim)
            back = torch.stack((table[..., 0], -table[..., 1]), -1)  # the opposite angles
            grad_q = apply_rotary(grad_q, back).flatten(-2)
            grad_k = apply_rotary(grad_k, back).flatten(-2)
            grad_v = grad_v.flatten(-2)
            grad_a = _sum_of_products((grad_q, w.wq), (grad_k, w.wk), (grad_v, w.wv))
            grad_a = exchange.scatter(grad_a)
            grad_x, grad_norm = _norm_backward(grad_a, unit, scale, w.attention_norm)
            grads = (
                exchange.total(grad_norm), _outer(grad_q, a), _outer(grad_k, a), _outer(grad_v, a),
                _outer(grad_sum, mixed), *grad_ffn,
            )  # fmt: skip
            grads = (g.to(weight.dtype) for g, weight in zip(grads, weights, strict=True))
        return grad_x.add_(grad_h).type_as(x), None, None, *grads


def _feed_forward_backward(
    grad: Tensor, h: Tensor, gate: Tensor, up: Tensor, w: Weights, settings: Settings
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Of h + w2(SiLU(w1 b) * w3 b) with b = norm(h): gradients of h, and of norm, w1, w3, w2."""
    exchange = settings.exchange
    b, unit, scale = _norm(h, w.ffn_norm, settings.eps[1])
    b, grad_out = (exchange.gather(t.to(settings.dtype)) for t in (b, grad))
    silu = F.silu(gate)
    grad_w2 = _outer(grad_out, silu * up)
    grad_hidden = grad_out @ w.w2
    grad_up = silu.mul_(grad_hidden)
    # SiLU'(z) = s (1 + z (1 - s)) with s = sigmoid(z); torch has it in one pass
    grad_gate = torch.ops.aten.silu_backward(grad_hidden.mul_(up), gate)
    grad_b = exchange.scatter(_sum_of_products((grad_gate, w.w1), (grad_up, w.w3)))
    grad_h, grad_norm = _norm_backward(grad_b, unit, scale, w.ffn_norm)
    grads = exchange.total(grad_norm), _outer(grad_gate, b), _outer(grad_up, b), grad_w2
    return grad_h.add_(grad), grads


def _norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """RMSNorm as in ``model.norm``: the output, x / rms(x), and 1 / rms(x)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
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
    along = (product @ weight / weight.numel()).unsqueeze(-1)
    grad_x = (grad * weight).addcmul_(unit, along, value=-1).mul_(scale)
    return grad_x, product.flatten(0, -2).sum(0)


def _outer(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of a matrix: the sum over positions of grad x^T."""
    return grad.flatten(0, -2).mT @ x.flatten(0, -2)


def _sum_of_products(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """The gradient of an input of several matrices: the sum of grad @ matrix."""
    (first, matrix), *others = pairs
    total = first @ matrix
    for grad, other in others:
        total.flatten(0, -2).addmm_(grad.flatten(0, -2), other)
    return total


class BlockByHand(TransformerBlock):
    """A block with the backward above; the same parameters under the same names.

    Without gradients, or with a cache, it is the plain block. Its linear layers are not called as
    modules: what hooks the whole block (DDP, FSDP, recomputing) sees it, what hooks them does not,
    and ``exchange`` does it instead. There is no second derivative.
    """

    lean: bool = True
    exchange: Exchange = Exchange()

    def forward(self, x: Tensor, table: Tensor, mix: Mix = causal_attention) -> Tensor:
        """As in ``TransformerBlock``."""
        if mix is not causal_attention or not torch.is_grad_enabled():
            return super().forward(x, table, mix)
        attention, feed_forward = self.attention, self.feed_forward
        parameters = (
            self.attention_norm.weight, attention.wq.weight, attention.wk.weight,
            attention.wv.weight, attention.wo.weight, self.ffn_norm.weight,
            feed_forward.w1.weight, feed_forward.w3.weight, feed_forward.w2.weight,
        )  # fmt: skip
        weights = Weights(*map(self.exchange.piece, parameters))
        device = x.device.type
        lower = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if lower else weights.wq.dtype
        eps = (self.attention_norm.eps, self.ffn_norm.eps)
        settings = Settings(attention.head_dim, eps, self.lean, dtype, self.exchange)
        return _Block.apply(x, table, settings, *weights)


def differentiate_by_hand(model: Llama, lean: bool = True) -> Llama:
    """Give every block of ``model`` the hand-written backward, in place, and return the model.

    Nothing else changes: not the parameters, their names, or the model's file. ``lean`` keeps 4d +
    2f numbers a token instead of 6d + 2f and multiplies by wv and wo once more.
    """
    for layer in model.layers:
        layer.__class__ = BlockByHand
        layer.lean = lean
    return model
