"""The draws of a learner: the samplers, by keys that the number of the step decides."""

import inspect
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from hdistill.checks.batches import traced
from hdistill.checks.values import check_arrays, describe


def first_half(key, task):
    """The default `sample_inner`: the first half of a pair."""
    return _half(task, 0, "sample_inner")


def second_half(key, task):
    """The default `sample_outer`: the second half of a pair."""
    return _half(task, 1, "sample_outer")


def _half(task, i: int, name: str):
    pair = hasattr(task, "__getitem__") and getattr(task, "shape", True)
    if not pair or isinstance(task, Mapping) or len(task) <= i:
        kind = describe(task) if hasattr(task, "dtype") else f"a {type(task).__name__}"
        raise ValueError(
            f"tasks is {kind}: the default {name} takes item {i} of each task; "
            f"expected pairs, or {name}=a function (key, task) -> batch"
        )
    return task[i]


def numbered(name: str, sample):
    """A sampler as a function of (key, task, t), whether or not it asks for t."""
    if callable(sample) and _needs(sample) == 3:
        return _sampler(name, sample, 3)
    sample = _sampler(name, sample, 2)
    return lambda key, task, t: sample(key, task)


def _sampler(name: str, sample, count: int):
    if not callable(sample) or _needs(sample) not in (None, count):
        raise ValueError(f"{name}={sample!r}: expected a function of (key, task) or (key, task, t)")

    def checked(*arguments):
        with traced(f"{name}(key, task)", "its arguments are traced"):
            batch = sample(*arguments)
        check_arrays(f"{name}(key, task)", batch)
        return batch

    return checked


def _needs(function) -> int | None:
    """Counts the positional arguments that a function must be given.

    None where it takes any number; -1 where it must be given a keyword.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # no function, or one written in C
        return None
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return None
    if any(p.kind == p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return -1
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    return needed if needed > 2 else min(len(positional), 2)


def draw(plan, key, task, t, before=0):
    """(D_t, the outer batch, a key for the estimator) of a task's inner step t.

    Args:
      t: the step that the draw is numbered by.
      before: the steps before it that the draw is not numbered by.
    """
    return drawn_with(plan, keys_of_step(key, t), task, t + before)


def keys_of_step(key, t):
    """Keys [3] of inner step t: for D_t, for the outer batch, for the estimator."""
    return jax.random.split(jax.random.fold_in(key, t), 3)


def drawn_with(plan, keys, task, t):
    """Draws as `draw` does, with the keys of the step."""
    number = jnp.asarray(t, jnp.int32)
    inner, outer = (
        plan.sample_inner(keys[0], task, number),
        plan.sample_outer(keys[1], task, number),
    )
    return inner, outer, keys[2]


def redraw(plan, key, task, before=0):
    """t -> D_t, drawn again from the key whenever it is asked for."""
    return lambda t: draw(plan, key, task, t, before)[0]
