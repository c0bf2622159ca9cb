"""What a learner is built from, checked; and how it draws batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from hdistill import online
from hdistill.checks import check_count
from hdistill.hypergradient.base import Estimator
from hdistill.initialization import Initialization
from hdistill.problem import Problem


class Plan(NamedTuple):
    """The arguments of `hd.learner` or `hd.stream`, checked."""

    problem: Problem
    estimator: Any
    hyper_optimizer: optax.GradientTransformation
    initialization: Initialization | None
    horizon: int
    moves: np.ndarray  # whether λ moves after inner step t, bool [T]
    refits: Callable
    sample_inner: Callable
    sample_outer: Callable


def make_plan(
    problem,
    estimator,
    hyper_optimizer,
    initialization,
    horizon,
    every,
    last,
    fit_period,
    sample_inner,
    sample_outer,
) -> Plan:
    """A `Plan` from `hd.learner`'s arguments, or a ValueError that names the one at fault."""
    horizon = check_count("horizon", horizon)
    every = check_count("every", every)
    last = check_count("last", horizon if last is None else last)
    uncalled = any(estimator is getattr(online, name) for name in online.__all__)
    if uncalled or not (isinstance(estimator, Estimator) or callable(estimator)):
        raise ValueError(
            f"estimator={estimator!r}: expected hd.online.NAME(problem, ...), a method of "
            "hd.offline, or a function called like one"
        )
    if initialization is not None and not isinstance(initialization, Initialization):
        raise ValueError(
            f"initialization={initialization!r}: expected hd.reptile(...), hd.fomaml(...) or None"
        )
    if not isinstance(hyper_optimizer, optax.GradientTransformation):
        raise ValueError(f"hyper_optimizer={hyper_optimizer!r}: expected an optax transformation")
    if not isinstance(estimator, Estimator) and (every, last) != (1, horizon):
        raise ValueError(
            f"every={every}, last={last}: expected neither, since an offline method moves λ "
            "once, at the end"
        )
    steps = np.arange(1, horizon + 1)
    moves = (steps % every == 0) & (steps > horizon - last)
    if not moves.any():
        raise ValueError(
            f"every={every}, last={last}: λ would never move in horizon={horizon} inner steps; "
            "expected a multiple of every among the last steps"
        )
    return Plan(
        problem,
        estimator,
        hyper_optimizer,
        initialization,
        horizon,
        moves,
        _schedule(fit_period),
        sample_inner,
        sample_outer,
    )


def _schedule(fit_period):
    """m -> whether to fit before the m-th inner optimisation."""
    if callable(fit_period):
        return fit_period
    period = check_count("fit_period", fit_period)
    return lambda m: (m - 1) % period == 0


def draw(plan, key, task, t):
    """(D_t, the outer batch, a key for the estimator) of a task's inner step t."""
    inner_key, outer_key, key = jax.random.split(jax.random.fold_in(key, t), 3)
    return plan.sample_inner(inner_key, task), plan.sample_outer(outer_key, task), key


def redraw(plan, key, task):
    """t -> D_t, drawn again from the key whenever it is asked for."""
    return lambda t: draw(plan, key, task, t)[0]
