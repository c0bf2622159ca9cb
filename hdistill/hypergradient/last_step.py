"""The common part of the methods that see only the last inner step, offline and online."""

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
from hdistill.hypergradient.outer_losses import OuterLosses
from hdistill.problem import InnerRun, Problem, PyTree
from hdistill.products import outer_pullback


class LastStepState(NamedTuple):
    """State of an estimator that remembers nothing of earlier steps."""

    signature: tuple[Signature, Signature, Moved]  # of weights and hparams; which leaves move
    products: jax.Array  # int32 []


class LastStep(NamedTuple):
    """A method that sees the last inner step only.

    Attributes:
      name: for messages.
      depth: how many inner steps it differentiates through (0 or 1; see `warn_if_zero`).
      second_order: `(problem, previous, hparams, batch, alpha) -> (g^SO, Jacobian products)`.
      shares: whether that is linear in α (see `estimator.shares_hparams`).
    """

    name: str
    depth: int
    second_order: Callable[..., tuple[PyTree, Any]]
    shares: bool = True


def offline_last_step(method: LastStep, arguments: Arguments, return_info):
    """Runs the inner optimisation and applies a last-step method at its end."""
    return run_offline(_at_last_step, method.name, method.depth, arguments, return_info, method)


def _at_last_step(inner: InnerRun, losses: OuterLosses, method: LastStep):
    previous, _ = inner._replace(horizon=inner.horizon - 1).steps()
    last = jnp.asarray(inner.horizon - 1, jnp.int32)
    final = inner.step(previous, last)
    loss, alpha, first_order = losses.pullback(inner, final, inner.horizon)
    here = inner.problem, previous, inner.hparams, inner.batch_at(last)
    second_order, products = method.second_order(*here, alpha)
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

    name, depth, _, shares = method
    return make_estimator(problem, depth, name, init, observe, estimate, shares=shares)
