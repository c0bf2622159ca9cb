"""The weights that Φ moves, apart from those that it hands on as they are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hdistill.checks.reach import unchanged
from hdistill.problem import InnerRun, Problem
from hdistill.reversible import Reversible
from hdistill.tree import part


class Moving(NamedTuple):
    """A problem whose weights are only those leaves that Φ moves.

    What Φ hands on as it is (a frozen body, a mask) is not a weight: it takes no average, is on no
    line and in no cotangent, may be infinite or of 8 bits, and is kept once, however many of the
    weights a method keeps.

    Attributes:
      problem: Φ, L_val and the surrogate of the moving leaves, the others closed over.
      weights: the moving leaves of the weights, a list; the weights themselves where all move.
      merge: moving leaves -> whole weights.
    """

    problem: Problem
    weights: Any
    merge: Callable


def moving_leaves(problem, hparams, weights, batch) -> tuple[bool, ...]:
    """For each leaf of the weights, whether Φ moves it; all of them where it moves none."""
    moved = tuple(not same for same in unchanged(problem, hparams, weights, batch))
    return moved if any(moved) else (True,) * len(moved)


def only_moving(problem: Problem, weights, moved: tuple[bool, ...]) -> Moving:
    """The problem of the leaves that `moved` names, at these weights."""
    if all(moved):
        return Moving(problem, weights, lambda whole: whole)
    chosen, merge = part(weights, moved)

    def within(function):
        if isinstance(function, Reversible):
            return Reversible(within(function.update), within(function.inverse))
        return lambda w, hparams, batch: part(function(merge(w), hparams, batch), moved)[0]

    return Moving(
        Problem(
            within(problem.update),
            lambda w, hparams, batch: problem.outer_loss(merge(w), hparams, batch),
            problem.surrogate and within(problem.surrogate),
        ),
        chosen,
        merge,
    )


def moving_run(inner: InnerRun) -> tuple[InnerRun, Callable, tuple[bool, ...]]:
    """The run of the leaves that Φ moves; (it, moving leaves -> whole weights, which move)."""
    batch = jax.eval_shape(inner.batch_at, jnp.zeros((), jnp.int32))
    moved = moving_leaves(inner.problem, inner.hparams, inner.weights, batch)
    problem, weights, merge = only_moving(inner.problem, inner.weights, moved)
    return inner._replace(problem=problem, weights=weights), merge, moved
