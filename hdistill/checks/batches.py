"""The batches of an inner optimisation: stacked, or a function of the step; counted and checked."""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from hdistill.cache import is_tracing
from hdistill.checks.values import check_arrays, check_count, check_no_list, leading_axis, outside

PyTree = Any


class OutOfDataWarning(UserWarning):
    """A batch function reads beyond the end of its data, where JAX repeats the last entry."""


def count_steps(batches, horizon: int | None) -> int:
    """T, from stacked batches [T, ...] or from `horizon` beside a function of the step.

    Raises:
      ValueError: leading axes that differ, a horizon that is missing, below 1 or not the batches',
        a list of batches that are not stacked.
    """
    if horizon is not None:
        horizon = check_count("horizon", horizon)
    if not callable(batches):
        check_no_list("batches", batches, "step")
        check_arrays("batches", batches)
    if callable(batches) or not jax.tree.leaves(batches):
        if horizon is None:
            raise ValueError("horizon=None: a function of the step, or no batches, needs horizon=T")
        return horizon
    steps = leading_axis(batches, "batches")
    if horizon not in (None, steps):
        raise ValueError(f"horizon={horizon}: the stacked batches have a leading axis of {steps}")
    if steps < 1:
        raise ValueError("batches: the leading axis is 0, expected one batch for each inner step")
    return steps


def check_every(every, horizon: int, outer_batch) -> int | None:
    """n, inner steps between two outer losses, checked beside their batches [T // n, ...].

    Raises:
      ValueError: n below 1 or above T, stacked outer batches of another number.
    """
    if every is None:
        return None
    every = check_count("every", every)
    if every > horizon:
        raise ValueError(f"every={every}: expected at most horizon={horizon}")
    if callable(outer_batch) or not jax.tree.leaves(outer_batch):
        return every
    check_no_list("outer_batch", outer_batch, "outer loss")
    check_arrays("outer_batch", outer_batch)
    losses, given = horizon // every, leading_axis(outer_batch, "outer_batch")
    if given != losses:
        raise ValueError(
            f"outer_batch: the leading axis is {given}, expected {losses}, a batch for each outer "
            f"loss, because every={every} and horizon={horizon}"
        )
    return every


def separate(batches):
    """(what a program is made with, what it is called with): a function, or arrays.

    A `jax.tree_util.Partial`, a function with its data, is among the arrays.
    """
    is_function = callable(batches) and not isinstance(batches, jax.tree_util.Partial)
    return (batches, None) if is_function else (None, batches)


def functions_in(*batches) -> list:
    """The functions of those that are a `jax.tree_util.Partial`."""
    return [x.func for x in batches if isinstance(x, jax.tree_util.Partial)]


def batch_stream(batches) -> Callable[[jax.Array], PyTree]:
    """t -> D_{t+1}, from stacked batches [T, ...], a function of the step, or None."""
    if callable(batches):
        return batches
    return lambda t: jax.tree.map(lambda x: jnp.asarray(x)[t], batches)


def batch_shapes(name: str, batch_at):
    """The shapes of a batch, where `batch_at`, the argument `name`, takes a traced t."""
    with traced(f"{name}(t)", "t is traced, int32 []"):
        return jax.eval_shape(batch_at, jax.ShapeDtypeStruct((), jnp.int32))


@contextlib.contextmanager
def traced(call: str, what: str):
    """Says in our words where a function that is traced asks for values."""
    try:
        yield
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise ValueError(
            f"{call}: {what}; expected a function that JAX can trace, with its data in jnp arrays "
            "and no Python int of what it is given"
        ) from error
    except (TypeError, ValueError) as error:  # of NumPy's, which was given a traced array
        if "Tracer" not in str(error):
            raise
        raise ValueError(
            f"{call}: {what}, but {error}; expected a function that JAX can trace (of batches by "
            "NumPy: stack them, or use hdistill.training.reverse_mode)"
        ) from error


def warn_of_last_batch(name: str, batches, horizon: int, every: int | None = None) -> None:
    """Warns of a batch function that has no data left at t = T - 1, where JAX repeats the last.

    It is called twice, outside any compilation; inside one its data may not be known yet. What is
    out of bounds at the first t too is meant so (`jnp.nonzero(size=)`, padding); what is so at the
    last only may be (a masked short last batch), hence no error.

    Args:
      every: n, where it is asked for t = n-1, 2n-1, ... only.
    """
    if is_tracing():
        return
    batch_shapes(name, batches)
    checked = checkify.checkify(batches, errors=checkify.index_checks)
    try:
        first, error = (
            checked(jnp.asarray(t, jnp.int32))[0].get() for t in ((every or 1) - 1, horizon - 1)
        )
    except Exception:  # checkify knows not every operation
        return
    if error and not first:
        steps = f"horizon={horizon} steps"
        expected = "a batch for each t = 0..T-1 (to repeat the data, take t % len)"
        if every is not None:
            steps = f"t = {every - 1}, {2 * every - 1}, ..."
            expected = f"a batch for each of these t (of data by loss, take t // {every})"
        warnings.warn(
            f"{name}(t) at t = {horizon - 1}, the last of {steps}: {error.strip()}; expected "
            f"{expected}, or a mask over what lies beyond",
            OutOfDataWarning,
            stacklevel=outside(),
        )
