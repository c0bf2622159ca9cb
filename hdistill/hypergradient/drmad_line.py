"""One inner optimisation forwards, keeping just what DrMAD needs on the way back."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hdistill.checks.reach import reaching_weights
from hdistill.devices import vary_like
from hdistill.hypergradient.outer_losses import OuterLosses
from hdistill.problem import InnerRun
from hdistill.tree import between, dtype_of, is_real, split


class Walk(NamedTuple):
    """The result of an inner optimisation in which L_val is taken m times.

    Attributes:
      final: w_T.
      point_at: t -> ŵ_t, t = 0..T, on the line through the anchors. The paper's t is one more.
      loss: the last L_val, a scalar.
      alpha: its gradient in the weights, a list (see `products`).
      earlier_losses: the m - 1 before it, floating [m - 1], or None.
      add_alpha: (j, α) -> α + the gradient of the j-th loss in the weights, j = 0..m-2.
      first_order: the sum of all their g^FO.
    """

    final: Any
    point_at: Callable
    loss: jax.Array
    alpha: list
    earlier_losses: jax.Array | None
    add_alpha: Callable
    first_order: Any


def walk(inner: InnerRun, losses: OuterLosses, anchors=1) -> Walk:
    """Runs the inner optimisation, with the outer losses and their gradients on the way.

    Leaves that take no derivative (step counters, keys) are on the line those of the true w_t.
    """
    problem, hparams, weights, _, horizon, _ = inner
    stored = [not is_real(leaf) for leaf in jax.tree.leaves(weights)]
    bends = np.array([-(-j * horizon // anchors) for j in range(anchors + 1)], np.int32)  # ⌈jT/k⌉

    def step(carry, _):
        t, weights, corners = carry
        after = inner.step(weights, t)
        # Every step writes to the corner before it; the step that falls on a corner does so last.
        place = jnp.searchsorted(bends[1:], t + 1)
        corners = [x.at[place].set(value) for x, value in zip(corners, split(after)[0])]
        return (t + 1, after, corners), _chosen(jax.tree.leaves(weights), stored)

    def advance(carry, steps):
        if not steps:  # jax.disable_jit cannot run an empty scan
            return carry, None
        return jax.lax.scan(step, carry, length=steps)

    def stretch(carry):
        carry, true = advance(carry, losses.every)
        return carry, true, losses.pullback(inner, carry[1], carry[0])

    needed: list[bool] = []  # of the weights' leaves, those that L_val depends on

    def early_stretch(carry, _):
        carry, total = carry
        carry, true, (loss, alpha, direct) = stretch(carry)
        return (carry, optax.tree.add(total, direct)), (true, loss, _chosen(alpha, needed))

    corners = [] if anchors == 1 else [_repeated(x, anchors) for x in split(weights)[0]]
    carry, parts, earlier, total = (jnp.int32(0), weights, corners), [], (None, None), None
    if losses.number > 1:
        outer_batch = jax.eval_shape(losses.outer_batch_at, jnp.int32(losses.every - 1))
        needed += reaching_weights(problem, hparams, weights, outer_batch)
        total = vary_like(optax.tree.zeros_like(hparams), (weights, hparams))
        (carry, total), (true, *earlier) = jax.lax.scan(
            early_stretch, (carry, total), length=losses.number - 1
        )
        parts.append([x.reshape(-1, *x.shape[2:]) for x in true])
    carry, true, (loss, alpha, direct) = stretch(carry)
    (_, final, corners), rest = advance(carry, horizon - losses.end)
    parts += [x for x in (true, rest) if x is not None]

    def add_alpha(j, alpha):
        cotangents = iter(earlier[1])
        return [x + next(cotangents)[j] if of else x for x, of in zip(alpha, needed)]

    return Walk(
        final,
        _line(weights, final, corners, bends, [_joined(x) for x in zip(*parts)]),
        loss,
        alpha,
        earlier[0],
        add_alpha,
        direct if total is None else optax.tree.add(total, direct),
    )


def _line(first, final, corners, bends, true):
    """t -> ŵ_t between the corners, with the leaves of the true w_t that take no derivative."""
    ends = corners or [jnp.asarray(x)[None] for x in split(final)[0]]  # of the pieces, [k, ...]

    def point_at(t):
        piece = jnp.searchsorted(bends[1:-1], t, side="right")
        begin, end = (jnp.asarray(bends)[piece + i] for i in (0, 1))
        at_t, pieces = iter([x[t] for x in true]), iter(ends)

        def on_line(x):
            if not is_real(x):
                return next(at_t)
            corner, dtype = next(pieces), dtype_of(x)
            wide = jnp.promote_types(dtype, jnp.float32)  # half precision counts to 256
            walked, whole = (jnp.asarray(steps, wide) for steps in (t - begin, end - begin))
            share = (walked / whole).astype(dtype)
            start = x if len(bends) == 2 else jnp.where(piece == 0, x, corner[piece - 1])
            target = corner[piece]
            return between(share, target, start, (1 - share) * start + share * target)

        leaves, structure = jax.tree.flatten(first)
        return structure.unflatten(map(on_line, leaves))

    return point_at


def _chosen(leaves, which) -> list:
    return [leaf for leaf, chosen in zip(leaves, which) if chosen]


def _repeated(leaf, count: int):
    return jnp.broadcast_to(leaf, (count, *jnp.shape(leaf)))


def _joined(parts):
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)
