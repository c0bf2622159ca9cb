"""The makings of an offline method: its arguments, its checks, its info."""

import inspect
import sys
from typing import Any, Literal, NamedTuple, Protocol, overload

import jax
import jax.numpy as jnp

from hdistill.cache import compiled
from hdistill.checks.batches import (
    batch_shapes,
    batch_stream,
    check_every,
    count_steps,
    functions_in,
    separate,
    warn_of_last_batch,
)
from hdistill.checks.problem import (
    check_functions,
    check_problem,
    differentiating,
    warn_if_not_finite,
    warn_if_zero,
)
from hdistill.checks.values import (
    check_arrays,
    check_flag,
    describe,
    is_concrete,
    summary,
)
from hdistill.hypergradient.estimator import Hypergradient, no_products, spend
from hdistill.hypergradient.moving import moving_run
from hdistill.hypergradient.outer_losses import OuterLosses, outer_losses
from hdistill.problem import InnerRun, Problem, PyTree
from hdistill.tree import is_finite, is_real

ALL = sys.maxsize  # inner steps


class OfflineInfo(NamedTuple):
    """Diagnostics of an offline method, beside the hypergradient.

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
      start: the derivative of the same loss (or sum of losses) in w_0, of its structure, None in
        place of what takes no derivative or is handed on by Φ unchanged (for the derivative in such
        a leaf make it part of λ). Of `hd.offline.reverse_mode` without a window; else None.
      steps: forward steps of Φ, those run again included (not those within products), int32 [].
    """

    weights: PyTree
    outer_loss: jax.Array
    products: jax.Array | int
    finite: jax.Array | None = None
    start: PyTree = None
    steps: jax.Array | int | None = None

    def __repr__(self) -> str:
        """In one line: the weights may be millions."""
        loss = jnp.asarray(self.outer_loss)
        shown = f"{loss:.4g}" if loss.ndim == 0 and is_concrete(loss) else describe(loss)
        return (
            f"OfflineInfo(outer_loss={shown}, products={self.products}, finite={self.finite}, "
            f"weights={summary(self.weights)}, start={summary(self.start)})"
        )


class OfflineMethod(Protocol):
    """An offline method without further options; `return_info` decides what it returns."""

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


def is_offline(estimator, **options) -> bool:
    """Tells whether it can be called as an offline method is, with the options."""
    if not callable(estimator):
        return False
    task = ("problem", "hparams", "weights", "batches", "outer_batch")
    try:
        inspect.signature(estimator).bind(*task, horizon=1, return_info=True, **options)
    except (TypeError, ValueError):  # the latter of a function written in C
        return False
    return True


class Arguments(NamedTuple):
    """The arguments of every offline method."""

    problem: Problem
    hparams: PyTree
    weights: PyTree
    batches: Any
    outer_batch: PyTree
    horizon: int | None
    every: int | None = None


def run_offline(method, name, depth, arguments: Arguments, return_info, *options, arrays=()):
    """Checks an offline method's arguments and runs it, compiled where the caller is not.

    Args:
      method: `(inner, losses, *arrays, *options) -> (Hypergradient, OfflineInfo)`, of an `InnerRun`
        and its `OuterLosses`.
      name: for messages.
      depth: how many inner steps the method differentiates through, `ALL` of them or fewer.
      options: the method's own, static.
      arrays: the method's own, such as a key.

    Returns:
      A `Hypergradient`; with `return_info`, a pair with the info.

    Warns:
      NonFiniteWarning: the result is not finite, and the call is not part of a compilation.
    """
    return_info = check_flag("return_info", return_info)
    method = method, return_info
    program, given = open_offline(_hypergradient, name, depth, arguments, method, options)
    result, info = program(*given, *arrays)
    warn_if_not_finite(name, result, info, arguments.weights)
    return (result, info) if return_info else result


def open_offline(function, name, depth, arguments: Arguments, *options):
    """(a program, the arrays to call it with), after the checks that need no tracing.

    The program is `function(inner, losses, *arrays, *options)`, where `arrays` are what it is
    called with besides. It makes the other checks as it is traced, once for each compilation.
    """
    problem, hparams, weights, batches, outer_batch, horizon, every = arguments
    check_functions(problem)
    horizon = count_steps(batches, horizon)
    every = check_every(every, horizon, outer_batch)
    for argument in ("hparams", "weights"):
        check_arrays(argument, getattr(arguments, argument))
    batch_function, stacked = separate(batches)
    outer_function = None
    if every is not None:
        outer_function, outer_batch = separate(outer_batch)
    check_arrays("outer_batch", outer_batch)
    static = (function, name, depth, problem, batch_function, outer_function, horizon, every)
    program = compiled(_program, *static, *options, reads=functions_in(stacked, outer_batch))
    return program, (hparams, weights, stacked, outer_batch)


def _program(
    function, name, depth, problem, batch_function, outer_function, horizon, every, *options
):
    if batch_function is not None:
        warn_of_last_batch("batches", batch_function, horizon)
    if outer_function is not None:
        warn_of_last_batch("outer_batch", outer_function, horizon // every * every, every)

    def program(hparams, weights, stacked, outer_batch, *arrays):
        batch_at = batch_stream(batch_function or stacked)
        batch = batch_shapes("batches", batch_at)
        if every is None:
            losses, one_outer = outer_losses(horizon, outer_batch), outer_batch
        else:
            numbered = batch_stream(outer_batch)  # the j-th loss's, of those stacked
            asked = outer_function or (numbered if callable(outer_batch) else None)
            losses = outer_losses(horizon, asked or (lambda t: numbered(t // every)), every)
            one_outer = batch_shapes("outer_batch", losses.outer_batch_at)
        check_problem(problem, hparams, weights, batch, one_outer)
        if depth is not None:  # None: what is called will warn by itself
            span = min(depth, horizon)
            warn_if_zero(problem, hparams, weights, batch, one_outer, span, name)
        inner = InnerRun(problem, hparams, weights, batch_at, horizon)
        with differentiating():
            return function(inner, losses, *arrays, *options)

    return program


def _hypergradient(inner: InnerRun, losses: OuterLosses, *given):
    *arrays, (method, whole_info), options = given
    moving, merge, moved = moving_run(inner)
    result, info = method(moving, losses, *arrays, *options)
    info = info._replace(
        products=spend(no_products(), info.products),
        finite=is_finite((result, info.outer_loss)),
        steps=jnp.int32(inner.horizon if info.steps is None else info.steps),
    )
    if not whole_info:
        return result, info._replace(weights=None, start=None)
    start = None if info.start is None else start_of(inner.weights, moved, info.start)
    return result, info._replace(weights=merge(info.weights), start=start)


def start_of(weights, moved, alpha):
    """The last cotangent in the structure of the weights, None in place of all other leaves."""
    leaves, structure = jax.tree.flatten(weights)
    alpha = iter(alpha)
    return structure.unflatten(
        next(alpha) if m and is_real(x) else None for x, m in zip(leaves, moved)
    )
