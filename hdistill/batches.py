"""The batches of an inner optimisation: stacked, or a function of the step; counted and checked."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from hdistill.cache import is_tracing
from hdistill.checks import check_arrays, check_count, check_no_list, leading_axis

PyTree = Any


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


def batch_stream(batches) -> Callable[[jax.Array], PyTree]:
    """t -> D_{t+1}, from stacked batches [T, ...], a function of the step, or None."""
    if callable(batches):
        return batches
    return lambda t: jax.tree.map(lambda x: jnp.asarray(x)[t], batches)


def batch_shapes(name: str, batch_at):
    """The shapes of a batch, where `batch_at`, the argument `name`, takes a traced t."""
    try:
        return jax.eval_shape(batch_at, jnp.zeros((), jnp.int32))
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise ValueError(
            f"{name}(t): t is traced, int32 []; expected a function that JAX can trace, with its "
            "data in jnp arrays and no Python int of t"
        ) from error


def check_last_batch(name: str, batches, horizon: int, every: int | None = None) -> None:
    """A batch function still has data at t = T - 1, where JAX by itself would repeat the last.

    It is called once, outside any compilation; inside one its data may not be known yet.

    Args:
      every: n, where it is asked for t = n-1, 2n-1, ... alone.
    """
    if is_tracing():
        return
    batch_shapes(name, batches)
    checked = checkify.checkify(batches, errors=checkify.index_checks)
    error = checked(jnp.asarray(horizon - 1, jnp.int32))[0].get()
    if error:
        steps = f"horizon={horizon} steps"
        expected = "a batch for each t = 0..T-1 (to repeat the data, take t % len)"
        if every is not None:
            steps = f"t = {every - 1}, {2 * every - 1}, ..."
            expected = f"a batch for each of these t (of data by loss, take t // {every})"
        raise ValueError(
            f"{name}(t) at t = {horizon - 1}, the last of {steps}: {error.strip()}; expected "
            f"{expected}"
        )
