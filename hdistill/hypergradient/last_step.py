"""What the methods that see the last inner step alone share, offline and online."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hdistill.checks.values import Signature
from hdistill.hypergradient.estimator import (
    Estimator,
    Hypergradient,
    Moved,
    make_estimator,
    no_products,
    spend,
)
from hdistill.hypergradient.offline_method import Arguments, OfflineInfo, run_offline
from hdistill.problem import Problem, PyTree, run
from hdistill.products import outer_pullback


class LastStepState(NamedTuple):
    """State of an estimator that remembers nothing of earlier steps."""

    signature: tuple[Signature, Signature, Moved]  # of weights and hparams; which leaves move
    products: jax.Array  # int32 []


class LastStep(NamedTuple):
    """A method that sees the last inner step alone.

    Attributes:
      name: for messages.
      depth: how many inner steps it differentiates through (0 or 1; see `warn_if_zero`).
      second_order: `(problem, previous, hparams, batch, alpha) -> (g^SO, Jacobian products)`.
      linear: whether that is linear in α.
    """

    name: str
    depth: int
    second_order: Callable[..., tuple[PyTree, Any]]
    linear: bool = True


def offline_last_step(method: LastStep, arguments: Arguments, return_info):
    """Runs the inner optimisation and applies a last-step method at its end."""
    return run_offline(_at_last_step, method.name, method.depth, arguments, return_info, method)


def _at_last_step(problem, hparams, weights, batch_at, horizon, outer_batch, method: LastStep):
    previous, _ = run(problem, hparams, weights, batch_at, horizon - 1)
    batch = batch_at(jnp.asarray(horizon - 1, jnp.int32))
    final = problem.update(previous, hparams, batch)
    loss, alpha, first_order = outer_pullback(problem, final, hparams, outer_batch)
    second_order, products = method.second_order(problem, previous, hparams, batch, alpha)
    return Hypergradient(first_order, second_order), OfflineInfo(final, loss, products)


def online_last_step(method: LastStep, problem: Problem) -> Estimator:
    """The same method after every inner step."""

    def init(signature, weights, hparams, batch):
        return LastStepState(signature, no_products())

    def estimate(problem, state, transition):
        previous, current, hparams, batch, outer_batch = transition
        _, alpha, first_order = outer_pullback(problem, current, hparams, outer_batch)
        second_order, products = method.second_order(problem, previous, hparams, batch, alpha)
        state = state._replace(products=spend(state.products, products))
        return Hypergradient(first_order, second_order), state

    def observe(problem, state, transition, key):
        return state

    name, depth, _, linear = method
    return make_estimator(problem, depth, name, init, observe, estimate, linear=linear)
