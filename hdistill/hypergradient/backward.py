"""The recursion of an exact or interpolated reverse pass (online reverse mode has its own)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.devices import vary_like
from hdistill.problem import InnerRun
from hdistill.products import inner_pullback
from hdistill.tree import wide


class Pulled(NamedTuple):
    """The result of `backward`.

    Attributes:
      alpha: the cotangent of the weights before the first step, a list.
      total: g, what fell on λ; of half precision in float32, in which long sums do not stall.
      carry: the last carry of `visit`.
      outputs: of `visit`, stacked by t, not by s: s belongs to outputs[S - s].
    """

    alpha: list
    total: Any
    carry: Any
    outputs: Any


def backward(inner: InnerRun, point_at, alpha, total=None, visit=None, carry=None) -> Pulled:
    """Pulls α back through the inner steps, last to first, and sums what falls on λ.

    For t from the last step of `inner` down to its first, with A_t, B_t the Jacobians of Φ at
    (point_at(t), λ; batch_at(t)):

        g ← g + α B_t
        α ← α A_t

    After s steps g is g_s^SO, the second-order term of the last s steps (Eq. 16 of the paper, where
    the points are DrMAD's interpolation; with the true trajectory it is exact reverse mode).

    Args:
      inner: the S steps to go back through; its weights are not used.
      point_at: t -> the weights before inner step t.
      alpha: cotangent of the weights after the last step, a list (see `products`).
      total: g to start from; zero if None.
      visit: `(carry, t, weights, batch, α, g_s) -> (carry, α, outputs)`, called after each step,
        with the weights before it; what it adds to α is pulled back through the steps that remain.
      carry: its first carry.
    """
    problem, hparams = inner.problem, inner.hparams
    total = optax.tree.zeros_like(wide(hparams)) if total is None else total

    def body(state, _):
        t, alpha, total, carry = state
        weights, batch = point_at(t), inner.batch_at(t)
        alpha, direct = inner_pullback(problem, weights, hparams, batch, alpha)
        total = optax.tree.add(total, wide(direct))
        outputs = None
        if visit:
            carry, alpha, outputs = visit(carry, t, weights, batch, alpha, total)
        return (t - 1, alpha, total, carry), outputs

    last = jnp.asarray(inner.first + inner.horizon - 1, jnp.int32)
    start = (last, *vary_like((alpha, total, carry), (alpha, hparams)))
    (_, alpha, total, carry), outputs = jax.lax.scan(
        body, start, length=inner.horizon, reverse=True
    )
    return Pulled(alpha, total, carry, outputs)
