"""The types that every estimator shares, and what an online one is made with."""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from hdistill.checks.problem import (
    check_functions,
    check_problem,
    differentiating,
    warn_if_zero,
)
from hdistill.checks.values import (
    LARGEST,
    Signature,
    check_arrays,
    check_hparams,
    check_weights,
)
from hdistill.hypergradient.fit import Fit
from hdistill.hypergradient.moving import moving_leaves, only_moving
from hdistill.problem import Problem, PyTree, meta_problem
from hdistill.tree import part


class Hypergradient(NamedTuple):
    """dL_val/dλ in its two terms, each of the structure of λ.

    Examples:
      >>> g = hd.offline.reverse_mode(problem, hparams, weights, batches, outer_batch, horizon=20)
      >>> bool(jnp.allclose(g.total, g.first_order + g.second_order))
      True

    Attributes:
      first_order: g^FO, the direct gradient ∂L_val/∂λ.
      second_order: g^SO, the response through the weights, α dw/dλ.
    """

    first_order: PyTree
    second_order: PyTree

    @property
    def total(self) -> PyTree:
        """g^FO + g^SO."""
        return jax.tree.map(lambda a, b: a + b, self.first_order, self.second_order)


class Transition(NamedTuple):
    """One inner step as an online estimator sees it: `current` = Φ(`previous`, λ; `batch`).

    Examples:
      >>> after = problem.update(weights, hparams, batch)
      >>> transition = hd.Transition(weights, after, hparams, batch, outer_batch)

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


# Where the tasks of a `Transition` are side by side: everywhere but in λ, which they share.
SIDE_BY_SIDE = Transition(previous=0, current=0, hparams=None, batch=0, outer_batch=0)


class EstimatorInit(Protocol):
    """The state of an estimator before the first inner step."""

    def __call__(self, weights: PyTree, hparams: PyTree, batch: PyTree, /) -> Any: ...


class EstimatorStep(Protocol):
    """A hypergradient after an inner step at which λ moves, and the state after it."""

    def __call__(
        self, state: Any, transition: Transition, key: jax.Array, /
    ) -> tuple[Hypergradient, Any]: ...


class EstimatorObserve(Protocol):
    """The state after an inner step at which λ rests."""

    def __call__(self, state: Any, transition: Transition, key: jax.Array, /) -> Any: ...


def shares_hparams(method):
    """Marks a method, or an estimator's step, that takes the tasks of a meta-batch together.

    It holds for what is linear in the cotangent α: the hypergradient of a `meta_problem` is then
    the mean of the tasks', and the learner has it in one pass. The mark is an attribute,
    `shares_hparams`, that `functools.partial` and `functools.wraps` keep; a lambda around such a
    method, and a wrapper that is not linear (it clips, say), set it themselves.
    """
    method.shares_hparams = True
    return method


class Estimator(NamedTuple):
    """An online hypergradient estimator: pure functions over a state that starts with each task.

    Examples:
      >>> estimator = hd.online.one_step(problem)
      >>> state, w = estimator.init(weights, hparams, batch), weights
      >>> for key in jax.random.split(jax.random.key(0), 3):
      ...     after = problem.update(w, hparams, batch)
      ...     step = hd.Transition(w, after, hparams, batch, outer_batch)
      ...     g, state = jax.jit(estimator.step)(state, step, key)
      ...     w = after
      >>> print(state.products)
      3

    Attributes:
      init: `(weights, hparams, batch) -> state`, before the first inner step. `batch` gives shapes.
      step: `(state, transition, key) -> (Hypergradient, state)`, after an inner step at which λ
        moves. Where it has the attribute `shares_hparams`, also of tasks side by side, all of its
        arguments but λ with a leading axis: the hypergradient is then the mean of the tasks', in
        one pass, which is faster than `jax.vmap` and a mean (`hd.meta_problem`).
      observe: `(state, transition, key) -> state`, after an inner step at which λ does not move:
        what the estimator must remember of it, without a hypergradient.
      fit: None, or a `Fit` for estimators whose state has a `theta` to be fitted (Algorithm 4).

    Every state has `products`, the number of Jacobian products of Φ spent since `init` (int32 [],
    at most 2³¹ - 1). The learner and the stream set it to 0 at each of their steps.
    """

    init: EstimatorInit
    step: EstimatorStep
    observe: EstimatorObserve
    fit: Fit | None = None


def spend(products, more):
    """So many more products, or 2³¹ - 1 where an int32 holds no more."""
    more = min(more, LARGEST) if isinstance(more, int) else more
    return jnp.minimum(products, LARGEST - more) + more


def no_products():
    """None spent, int32 []."""
    return jnp.zeros((), jnp.int32)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Moved:
    """For each leaf of the weights, whether Φ moves it (`moving`); static in a state."""

    leaves: tuple[bool, ...]


def _moving_part(transition: Transition, moved: Moved) -> Transition:
    return transition._replace(
        previous=part(transition.previous, moved.leaves)[0],
        current=part(transition.current, moved.leaves)[0],
    )


def make_estimator(
    problem: Problem,
    depth: int | None,
    name: str,
    init,
    observe,
    estimate,
    fit=None,
    shares: bool = False,
):
    """An `Estimator` from unchecked functions; what it adds is the checks, made while tracing.

    Args:
      depth: how many inner steps it differentiates through; None for no derivative of Φ, so that
        nothing is warned of.
      init: `(signature, weights, hparams, batch) -> state`. Here and below weights are those
        leaves that Φ moves (`Moving`).
      observe: `(problem, state, transition, key) -> state`.
      estimate: `(problem, state, transition) -> (Hypergradient, state)`, with a state that has
        observed the transition already.
      shares: whether the hypergradient is linear in the cotangent α (see `shares_hparams`). Of
        tasks side by side `estimate` gets the meta-problem, and states that observed one by one.
    """
    check_functions(problem)

    def checked_init(weights, hparams, batch):
        check_hparams(hparams)
        check_weights(weights)
        check_arrays("batch", batch)
        try:
            moved = Moved(moving_leaves(problem, hparams, weights, batch))
        except Exception:  # `step` says what does not fit
            moved = Moved((True,) * len(jax.tree.leaves(weights)))
        signature = Signature.of(weights), Signature.of(hparams), moved
        return init(signature, part(weights, moved.leaves)[0], hparams, batch)

    def checked_observe(state, transition, key):
        if not hasattr(state, "signature") or not isinstance(transition, Transition):
            raise ValueError(
                f"state is a {type(state).__name__}, transition a {type(transition).__name__}: "
                f"expected the state of this {name}'s init and an hd.Transition"
            )
        weights, hparams, moved = state.signature
        weights.check("transition.previous", transition.previous)
        weights.check("transition.current", transition.current)
        hparams.check("transition.hparams", transition.hparams)
        try:
            here = only_moving(problem, transition.previous, moved.leaves).problem
            return observe(here, state, _moving_part(transition, moved), key)
        except AttributeError as error:
            raise ValueError(
                f"state is a {type(state).__name__}: expected the state of this {name}'s init"
            ) from error

    def check(transition):
        previous, _, hparams, batch, outer_batch = transition
        check_problem(problem, hparams, previous, batch, outer_batch)
        if depth is not None:
            warn_if_zero(problem, hparams, previous, batch, outer_batch, depth, name)

    def step(state, transition, key):
        if shares and jnp.ndim(getattr(state, "products", 0)):
            return step_together(state, transition, key)
        observed = checked_observe(state, transition, key)
        check(transition)
        return estimated(observed, transition, problem)

    def step_together(states, transitions, keys):
        observed = jax.vmap(checked_observe, (0, SIDE_BY_SIDE, 0))(states, transitions, keys)
        first = jax.tree.map(lambda x: x[0], transitions._replace(hparams=None))
        check(first._replace(hparams=transitions.hparams))
        return estimated(observed, transitions, several)

    def estimated(state, transition, problem):
        moved = state.signature[2]
        moving = only_moving(problem, transition.previous, moved.leaves)
        with differentiating():
            return estimate(moving.problem, state, _moving_part(transition, moved))

    several = meta_problem(problem)
    step = shares_hparams(step) if shares else step
    return Estimator(checked_init, step, checked_observe, fit)
