"""The types that every estimator shares, and the two faces of the last-step methods."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.checks import Signature, check_hparams, check_problem, warn_if_zero
from hdistill.problem import Problem, PyTree, batch_stream, run
from hdistill.products import outer_pullback
from hdistill.tree import shapes


class Hypergradient(NamedTuple):
    """dL_val/dλ in its two terms, each of the structure of λ.

    Attributes:
      first_order: g^FO, the direct gradient ∂L_val/∂λ.
      second_order: g^SO, the response through the weights, α dw/dλ.
    """

    first_order: PyTree
    second_order: PyTree

    @property
    def total(self) -> PyTree:
        """g^FO + g^SO."""
        return optax.tree.add(self.first_order, self.second_order)


class Transition(NamedTuple):
    """One inner step as an online estimator sees it: `current` = Φ(`previous`, λ; `batch`).

    Attributes:
      previous: w_{t-1}.
      current: w_t.
      hparams: λ.
      batch: D_t, the batch of the inner step.
      outer_batch: the batch of the outer loss at w_t.
    """

    previous: PyTree
    current: PyTree
    hparams: PyTree
    batch: PyTree
    outer_batch: PyTree


class Fit(NamedTuple):
    """How the `theta` of an estimator's state is fitted before an inner optimisation.

    Attributes:
      initial: θ before any fit, a pytree of floating scalars.
      measure: `(hparams, weights, batch_at, horizon, outer_batch, key) -> statistics`, a pytree of
        arrays; where there are several tasks, the mean over them is what counts.
      solve: `statistics -> θ`, like `initial`.
      products: `horizon -> int`, Jacobian products that `measure` spends.
    """

    initial: PyTree
    measure: Callable[..., PyTree]
    solve: Callable[[PyTree], PyTree]
    products: Callable[[int], int]


class Estimator(NamedTuple):
    """An online hypergradient estimator: pure functions over a state that restarts with each task.

    Attributes:
      init: `(weights, hparams, batch) -> state`, before the first inner step. `batch` gives shapes.
      step: `(state, transition, key) -> (Hypergradient, state)`, after an inner step at which λ
        moves.
      observe: `(state, transition, key) -> state`, after an inner step at which λ does not move:
        what the estimator must remember of it, without a hypergradient.
      fit: None, or a `Fit` for estimators whose state has a `theta` to be fitted (Algorithm 4).

    Every state has `products`, the number of Jacobian products of Φ spent so far (int32 []).
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Hypergradient, Any]]
    observe: Callable[..., Any]
    fit: Fit | None = None


class OfflineInfo(NamedTuple):
    """What an offline method knows besides the hypergradient.

    Attributes:
      weights: w_T.
      outer_loss: L_val(w_T, λ), a scalar.
      products: number of Jacobian products of Φ (αA and αB count one each), an int.
    """

    weights: PyTree
    outer_loss: jax.Array
    products: int


class LastStepState(NamedTuple):
    """State of an estimator that remembers nothing of earlier steps."""

    signature: tuple[Signature, Signature]  # of (weights, hparams)
    products: jax.Array  # int32 []


class LastStep(NamedTuple):
    """A method that sees the last inner step alone.

    Attributes:
      name: for messages.
      depth: how many inner steps it differentiates through (0 or 1; see `warn_if_zero`).
      products: `(weights) -> int`, Jacobian products it spends.
      second_order: `(problem, previous, hparams, batch, alpha) -> g^SO`.
    """

    name: str
    depth: int
    products: Callable[[PyTree], int]
    second_order: Callable[..., PyTree]


def make_estimator(problem: Problem, depth: int, name: str, init, observe, estimate, fit=None):
    """An `Estimator` from unchecked functions; what it adds is the checks, made while tracing.

    Args:
      init: `(signature, weights, hparams, batch) -> state`.
      observe: `(state, transition, key) -> state`.
      estimate: `(state, transition) -> (Hypergradient, state)`, with a state that has observed
        the transition already.
    """

    def checked_init(weights, hparams, batch):
        check_hparams(hparams)
        return init((Signature.of(weights), Signature.of(hparams)), weights, hparams, batch)

    def checked_observe(state, transition, key):
        weights, hparams = state.signature
        weights.check("transition.previous", transition.previous)
        weights.check("transition.current", transition.current)
        hparams.check("transition.hparams", transition.hparams)
        return observe(state, transition, key)

    def step(state, transition, key):
        observed = checked_observe(state, transition, key)
        previous, _, hparams, batch, outer_batch = transition
        check_problem(problem, hparams, previous, batch, outer_batch)
        warn_if_zero(problem, hparams, previous, batch, outer_batch, depth, name)
        return estimate(observed, transition)

    return Estimator(checked_init, step, checked_observe, fit)


def open_offline(problem, hparams, weights, batches, outer_batch, horizon, depth, name):
    """Checks an offline method's arguments and returns `(batch_at, horizon)`.

    Args:
      depth: how many inner steps the method differentiates through, None for all.
    """
    batch_at, horizon = batch_stream(batches, horizon)
    batch = jax.eval_shape(batch_at, jnp.zeros((), jnp.int32))
    check_problem(problem, hparams, weights, batch, shapes(outer_batch))
    depth = horizon if depth is None else min(depth, horizon)
    warn_if_zero(problem, hparams, weights, batch, outer_batch, depth, name)
    return batch_at, horizon


def offline_last_step(
    method: LastStep, problem, hparams, weights, batches, outer_batch, horizon, return_info
):
    """Runs the inner optimisation and applies a last-step method at its end."""
    batch_at, horizon = open_offline(
        problem, hparams, weights, batches, outer_batch, horizon, method.depth, method.name
    )
    previous, _ = run(problem, hparams, weights, batch_at, jnp.arange(horizon - 1))
    batch = batch_at(jnp.asarray(horizon - 1))
    final = problem.update(previous, hparams, batch)
    loss, alpha, first_order = outer_pullback(problem, final, hparams, outer_batch)
    second_order = method.second_order(problem, previous, hparams, batch, alpha)
    result = Hypergradient(first_order, second_order)
    info = OfflineInfo(final, loss, method.products(weights))
    return (result, info) if return_info else result


def online_last_step(method: LastStep, problem: Problem) -> Estimator:
    """The same method after every inner step."""

    def init(signature, weights, hparams, batch):
        return LastStepState(signature, jnp.zeros((), jnp.int32))

    def estimate(state, transition):
        previous, current, hparams, batch, outer_batch = transition
        _, alpha, first_order = outer_pullback(problem, current, hparams, outer_batch)
        second_order = method.second_order(problem, previous, hparams, batch, alpha)
        products = state.products + method.products(previous)
        return Hypergradient(first_order, second_order), state._replace(products=products)

    return make_estimator(
        problem, method.depth, method.name, init, lambda state, *_: state, estimate
    )
