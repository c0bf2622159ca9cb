"""The segments of a long inner optimisation: where each starts, and the two programs of one."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.cache import compiled
from hdistill.hypergradient.moving import moving_run
from hdistill.hypergradient.outer_losses import OuterLosses
from hdistill.hypergradient.reverse_mode import stored
from hdistill.hypergradient.snapshots import with_snapshots
from hdistill.problem import InnerRun
from hdistill.tree import is_finite, split, wide


class Segment(NamedTuple):
    """So many inner steps from step `first` on."""

    first: int
    steps: int

    @property
    def numbers(self) -> range:
        """t of its steps."""
        return range(self.first, self.first + self.steps)


class Carry(NamedTuple):
    """What the way back has so far; with queries, each with a leading axis.

    Attributes:
      alpha: the cotangent of the weights, a list (see `products`).
      second_order: the sum of what fell on λ through the weights.
      first_order: the sum of the losses' direct gradients.
    """

    alpha: list
    second_order: Any
    first_order: Any


def segments(horizon: int, every: int, length: int) -> list[Segment]:
    """The segments of T steps: those up to the last outer loss first, then the rest.

    They are of `length` steps at most, and of three lengths at most. Where several losses fall into
    one it ends at a loss; else each loss is at the end of one.
    """
    end = horizon // every * every
    if every <= length:
        cuts = _cut(0, end, length // every * every)
    else:
        cuts = [s for first in range(0, end, every) for s in _cut(first, every, length)]
    return cuts + _cut(end, horizon - end, length)


def _cut(first: int, steps: int, length: int) -> list[Segment]:
    """Pieces of `length`; what that does not divide comes first."""
    rest = steps % length
    starts = range(first + rest, first + steps, length)
    return [Segment(first, rest)] * bool(rest) + [Segment(start, length) for start in starts]


def default_length(horizon: int) -> int:
    """⌈√T⌉: as many states at the segments' starts as weights within one."""
    return math.isqrt(horizon - 1) + 1


def forward(problem, segment: Segment) -> Callable:
    """(λ, weights, batches [S, ...], first) -> the weights that Φ moves, and are they finite."""
    return compiled(_forward, problem, segment.steps)


def _forward(problem, steps: int):
    def program(hparams, weights, batches, first):
        run = _run(problem, hparams, weights, batches, steps, first)
        last, _ = moving_run(run)[0].steps()
        return last, is_finite(last)

    return program


def finite_steps(problem, segment: Segment) -> Callable:
    """(as `forward`) -> whether the weights after each step are finite, bool [S]."""
    return compiled(_finite_steps, problem, segment.steps)


def _finite_steps(problem, steps: int):
    def program(hparams, weights, batches, first):
        run = _run(problem, hparams, weights, batches, steps, first)
        return moving_run(run)[0].finite_steps()

    return program


class Way(NamedTuple):
    """How a way back is made.

    Attributes:
      every: n, inner steps between two outer losses.
      snapshots: weights kept within a segment; None for all.
      queries: whether the outer batches have a leading axis of queries.
    """

    every: int
    snapshots: int | None
    queries: bool


def pull_back(problem, segment: Segment, way: Way) -> Callable:
    """The program that pulls a `Carry` back through a segment, whether it ends at a loss or not.

    Returns:
      (λ, weights, batches [S, ...], outer batches of the segment's losses [k, ...], first, carry)
      -> (carry, the losses [k], ‖α‖ after each step [S]); with queries all but the batches have a
      leading axis, the outer batches after k. Without a loss at its end k is 1, its loss 0.
    """
    return compiled(_pull_back, problem, segment.steps, way)


def _pull_back(problem, steps: int, way: Way):
    sweep = stored if way.snapshots is None or steps == 1 else with_snapshots(way.snapshots)

    def program(hparams, weights, batches, outer_batches, first, carry):
        run = moving_run(_run(problem, hparams, weights, batches, steps, first))[0]
        last, pull = sweep(run)

        def one(outer_batches, carry):
            def outer_batch_at(t):
                place = (t + 1) // way.every - 1 - first // way.every
                return jax.tree.map(lambda x: jnp.asarray(x)[place], outer_batches)

            losses = OuterLosses(way.every, 1, outer_batch_at, False)
            alpha, total, first_order = carry
            at_end = losses.add(run, last, first + steps, alpha, first_order, first)
            value_at_end, alpha, first_order = at_end

            def visit(first_order, t, weights, batch, alpha, total):
                value = jnp.zeros(())
                if way.every < steps:
                    add = losses.add(run, weights, t, alpha, first_order, first)
                    value, alpha, first_order = add
                return first_order, alpha, (value, optax.tree.norm(wide(alpha)))

            pulled = pull(alpha, total, first_order, visit)
            values, norms = pulled.outputs
            between = values[way.every :: way.every]  # none where the losses are further apart
            losses_of_all = jnp.append(between, value_at_end)
            return Carry(pulled.alpha, pulled.total, pulled.carry), losses_of_all, norms

        pulled = jax.vmap(one, (1, 0)) if way.queries else one
        return pulled(outer_batches, carry)

    return program


def first_carry(problem, hparams, weights, batch, queries: int | None) -> Carry:
    """Zeros, before the last loss."""
    run = InnerRun(problem, hparams, weights, lambda t: batch, 1)
    moving = moving_run(run)[0]
    alpha = optax.tree.zeros_like(split(moving.weights)[0])
    carry = Carry(alpha, optax.tree.zeros_like(wide(hparams)), optax.tree.zeros_like(hparams))
    if queries is None:
        return carry
    return jax.tree.map(lambda x: jnp.zeros((queries, *x.shape), x.dtype), carry)


def _run(problem, hparams, weights, batches, steps: int, first) -> InnerRun:
    def batch_at(t):
        return jax.tree.map(lambda x: jnp.asarray(x)[t - first], batches)

    return InnerRun(problem, hparams, weights, batch_at, steps, first)
