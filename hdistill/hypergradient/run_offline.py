"""What an offline method is made with, and what it returns."""

import sys
from typing import Any, Literal, NamedTuple, Protocol, overload

import jax

from hdistill.batches import (
    batch_shapes,
    batch_stream,
    check_every,
    check_last_batch,
    count_steps,
)
from hdistill.cache import compiled
from hdistill.checks import (
    check_arrays,
    check_flag,
)
from hdistill.hypergradient.base import Hypergradient, no_products, spend
from hdistill.problem import Problem, PyTree
from hdistill.problem_checks import check_functions, check_problem, warn_if_zero
from hdistill.tree import is_finite

ALL = sys.maxsize  # inner steps


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
