"""The types that every estimator shares; what an offline method and an estimator are made with."""

import sys
from typing import Any, Literal, NamedTuple, Protocol, overload

import jax
import jax.numpy as jnp
import optax

from hdistill.batches import (
    batch_shapes,
    batch_stream,
    check_every,
    check_last_batch,
    count_steps,
)
from hdistill.cache import compiled
from hdistill.checks import (
    LARGEST,
    Signature,
    check_arrays,
    check_flag,
    check_hparams,
    check_weights,
)
from hdistill.hypergradient.fit import Fit
from hdistill.problem import Problem, PyTree
from hdistill.problem_checks import check_functions, check_problem, warn_if_zero
from hdistill.tree import is_finite

ALL = sys.maxsize  # inner steps


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
        return optax.tree.add(self.first_order, self.second_order)


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


class Estimator(NamedTuple):
    """An online hypergradient estimator: pure functions over a state that restarts with each task.

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
        moves.
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


class OfflineInfo(NamedTuple):
    """What an offline method knows besides the hypergradient.

    Examples:
      >>> g, info = hd.offline.drmad(
      ...     problem, hparams, weights, batches, outer_batch, horizon=20, return_info=True
      ... )
      >>> print(f"{info.outer_loss:.2f}", info.products, info.finite)
      1.85 39 True

    Attributes:
      weights: w_T.
      outer_loss: L_val(w_T, λ), a scalar; with `every=n` of a method that takes it, L_val at w_n,
        w_2n, ..., w_mn, floating [m].
      products: number of Jacobian products of Φ (αA and αB count one each), int32 [], at most
        2³¹ - 1.
      finite: whether the hypergradient and the outer loss are finite throughout, bool []. Not
        where the inner run diverged, and not where Φ has no derivative (see `hd.from_losses`).
    """

    weights: PyTree
    outer_loss: jax.Array
    products: jax.Array | int
    finite: jax.Array | None = None


class OfflineMethod(Protocol):
    """An offline method without options of its own; `return_info` decides what it returns."""

    @overload
    def __call__(
        self,
        problem: Problem,
        hparams: PyTree,
        weights: PyTree,
        batches: PyTree,
        outer_batch: PyTree,
        *,
        horizon: int | None = ...,
        return_info: Literal[False] = ...,
    ) -> Hypergradient: ...

    @overload
    def __call__(
        self,
        problem: Problem,
        hparams: PyTree,
        weights: PyTree,
        batches: PyTree,
        outer_batch: PyTree,
        *,
        horizon: int | None = ...,
        return_info: Literal[True],
    ) -> tuple[Hypergradient, OfflineInfo]: ...


def offline_method(function: Any) -> OfflineMethod:
    """The function itself, for type checkers an `OfflineMethod`."""
    return function


def spend(products, more):
    """So many more products, or 2³¹ - 1 where an int32 holds no more."""
    more = min(more, LARGEST) if isinstance(more, int) else more
    return jnp.minimum(products, LARGEST - more) + more


def no_products():
    """None spent, int32 []."""
    return jnp.zeros((), jnp.int32)


def make_estimator(problem: Problem, depth: int, name: str, init, observe, estimate, fit=None):
    """An `Estimator` from unchecked functions; what it adds is the checks, made while tracing.

    Args:
      init: `(signature, weights, hparams, batch) -> state`.
      observe: `(state, transition, key) -> state`.
      estimate: `(state, transition) -> (Hypergradient, state)`, with a state that has observed
        the transition already.
    """
    check_functions(problem)

    def checked_init(weights, hparams, batch):
        check_hparams(hparams)
        check_weights(weights)
        check_arrays("batch", batch)
        return init((Signature.of(weights), Signature.of(hparams)), weights, hparams, batch)

    def checked_observe(state, transition, key):
        if not hasattr(state, "signature") or not isinstance(transition, Transition):
            raise ValueError(
                f"state is a {type(state).__name__}, transition a {type(transition).__name__}: "
                f"expected the state of this {name}'s init and an hd.Transition"
            )
        weights, hparams = state.signature
        weights.check("transition.previous", transition.previous)
        weights.check("transition.current", transition.current)
        hparams.check("transition.hparams", transition.hparams)
        try:
            return observe(state, transition, key)
        except AttributeError as error:
            raise ValueError(
                f"state is a {type(state).__name__}: expected the state of this {name}'s init"
            ) from error

    def step(state, transition, key):
        observed = checked_observe(state, transition, key)
        previous, _, hparams, batch, outer_batch = transition
        check_problem(problem, hparams, previous, batch, outer_batch)
        warn_if_zero(problem, hparams, previous, batch, outer_batch, depth, name)
        return estimate(observed, transition)

    return Estimator(checked_init, step, checked_observe, fit)


class Arguments(NamedTuple):
    """What every offline method is called with."""

    problem: Problem
    hparams: PyTree
    weights: PyTree
    batches: Any
    outer_batch: PyTree
    horizon: int | None
    every: int | None = None


def run_offline(method, name, depth, arguments: Arguments, return_info, *options):
    """Checks an offline method's arguments and runs it, compiled where the caller is not.

    Args:
      method: `(problem, hparams, weights, batch_at, horizon, outer_batch, *options) ->
        (Hypergradient, OfflineInfo)`; with `every`, `outer_batch` is a function of the inner step.
      name: for messages.
      depth: how many inner steps the method differentiates through, `ALL` of them or fewer.
      options: the method's own, static.

    Returns:
      A `Hypergradient`; with `return_info`, a pair with the info.
    """
    return_info = check_flag("return_info", return_info)
    program, arrays = open_offline(_hypergradient, name, depth, arguments, method, *options)
    result, info = program(*arrays)
    return (result, info) if return_info else result


def open_offline(function, name, depth, arguments: Arguments, *options):
    """(a program, the arrays to call it with), after the checks that need no tracing.

    The program is `function(problem, hparams, weights, batch_at, horizon, outer_batch, *arrays,
    *options)`, where `arrays` are what it is called with besides. It makes the other checks as it
    is traced, once for each compilation.
    """
    problem, hparams, weights, batches, outer_batch, horizon, every = arguments
    check_functions(problem)
    horizon = count_steps(batches, horizon)
    every = check_every(every, horizon, outer_batch)
    for argument in ("hparams", "weights"):
        check_arrays(argument, getattr(arguments, argument))
    batch_function, stacked = (batches, None) if callable(batches) else (None, batches)
    outer_function = None
    if every is not None and callable(outer_batch):
        outer_function, outer_batch = outer_batch, None
    check_arrays("outer_batch", outer_batch)
    static = (function, name, depth, problem, batch_function, outer_function, horizon, every)
    return compiled(_program, *static, *options), (hparams, weights, stacked, outer_batch)


def _program(
    function, name, depth, problem, batch_function, outer_function, horizon, every, *options
):
    if batch_function is not None:
        check_last_batch("batches", batch_function, horizon)
    if outer_function is not None:
        check_last_batch("outer_batch", outer_function, horizon // every * every, every)

    def program(hparams, weights, stacked, outer_batch, *arrays):
        batch_at = batch_stream(batch_function or stacked)
        batch = batch_shapes("batches", batch_at)
        one_outer = outer_batch
        if every is not None:
            numbered = batch_stream(outer_batch)  # the j-th loss's, of those stacked
            outer_batch = outer_function or (lambda t: numbered(t // every))
            one_outer = batch_shapes("outer_batch", outer_batch)
        check_problem(problem, hparams, weights, batch, one_outer)
        if depth is not None:  # None: what is called will warn by itself
            span = min(depth, horizon)
            warn_if_zero(problem, hparams, weights, batch, one_outer, span, name)
        task = (problem, hparams, weights, batch_at, horizon, outer_batch)
        return function(*task, *arrays, *options)

    return program


def _hypergradient(problem, hparams, weights, batch_at, horizon, outer_batch, method, *options):
    result, info = method(problem, hparams, weights, batch_at, horizon, outer_batch, *options)
    return result, info._replace(
        products=spend(no_products(), info.products),
        finite=is_finite((result, info.outer_loss)),
    )
