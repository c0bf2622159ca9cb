"""Meta-test: adapt to each of many tasks with λ and φ fixed, and measure."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hdistill.cache import compiled, is_tracing
from hdistill.checks.batches import traced
from hdistill.checks.problem import check_functions, check_update
from hdistill.checks.values import (
    check_arrays,
    check_calls,
    check_count,
    check_key,
    check_weights,
    leading_axis,
    outside,
)
from hdistill.devices import check_devices, everywhere, scattered, split_over
from hdistill.learners.draws import first_half, numbered, second_half
from hdistill.problem import InnerRun
from hdistill.tree import shapes


def evaluate(
    problem,
    hparams,
    weights,
    tasks,
    *,
    horizon: int,
    metric: Callable | None = None,
    sample_inner: Callable = first_half,
    key=None,
    batch_size: int | None = None,
    count: int | None = None,
    devices: list | None = None,
) -> jax.Array:
    """Measures each of many tasks after an inner optimisation from φ, with λ and φ fixed.

    For each task w_0 = φ, w_t = Φ(w_{t-1}, λ; D_t) for t = 1..T, and the metric of w_T. No
    hypergradient is taken and nothing is learnt. Outside `jax.jit` the inner optimisation of a
    batch is compiled once, whatever draws the tasks and however many they are (`hd.clear_cache`).

    Examples:
      >>> errors = hd.evaluate(problem, hparams, weights, tasks, horizon=30)
      >>> print(f"{errors.mean():.3f} ± {errors.std():.3f}")
      0.729 ± 0.451

    Args:
      problem: Φ and L_val.
      hparams: λ, a pytree.
      weights: φ, from which each task starts.
      tasks: a pytree with a leading axis of tasks; or a function key -> task, with `count`, so that
        tasks too large to be held at once are drawn one after the other. Arrays that it draws from
        become constants of a program; those of a `jax.tree_util.Partial` do not.
      horizon: T.
      metric: `(weights, hparams, task) -> array`, of w_T; None for L_val on `task[1]`.
      sample_inner: `(key, task) -> batch`, or `(key, task, t) -> batch`, as in `hd.learner`; by
        default the first half of a pair.
      key: typed PRNG key for the draws; None for `jax.random.key(0)`.
      batch_size: how many tasks to run side by side; None for all.
      count: how many tasks, where `tasks` is a function.
      devices: over which a batch is split, as by `hd.pmap_step`; None for one. Their number must
        divide batch_size and the number of tasks. Only of this process; not inside `jax.jit`.

    Returns:
      The metric of each task, [tasks, ...].

    Raises:
      ValueError: arguments that do not fit together; each is named.
    """
    check_functions(problem)
    horizon = check_count("horizon", horizon)
    check_arrays("hparams", hparams)
    check_weights(weights)
    draw: Any
    draw, stacked = (tasks, None) if callable(tasks) else (None, tasks)
    if draw is None:
        if count is not None:
            raise ValueError(f"count={count}: expected None beside stacked tasks")
        count = leading_axis(tasks, "tasks")
    else:
        check_calls("tasks", draw, "(key)")
    count = check_count("count", count)
    batch_size = min(check_count("batch_size", count if batch_size is None else batch_size), count)
    if metric is not None:
        check_calls("metric", metric, "(weights, hparams, task)")
    key = jax.random.key(0) if key is None else key
    check_key(key)
    numbered(
        "sample_inner", sample_inner
    )  # which checks it; the function itself tells one program from another
    parts = None if devices is None else _local(devices, batch_size, count)
    given = jax.random.split(key, count), stacked
    static = problem, horizon, metric, sample_inner
    if is_tracing():
        drawn, adapted = _drawn(draw), _adapted(*static)

        def one(given):
            return adapted(hparams, weights, *drawn(*given))

        return jax.lax.map(one, given, batch_size=batch_size)
    bound: tuple = ((), {})  # the arrays that a `Partial` draws from
    if isinstance(draw, jax.tree_util.Partial):
        draw, bound = draw.func, (draw.args, draw.keywords)
    drawn, adapted = compiled(_drawn_batch, draw), compiled(_adapted_batch, *static, parts)
    if parts is not None:
        hparams, weights = everywhere(parts, (hparams, weights))
    figures = []
    for i in range(0, count, batch_size):
        batch = jax.tree.map(lambda x: x[i : i + batch_size], given)
        batch = drawn(bound, *batch)
        batch = batch if parts is None else scattered(parts, batch)
        figures.append(adapted(hparams, weights, *batch))
    return jax.tree.map(lambda *batches: jnp.concatenate(batches), *figures)


def _drawn(draw):
    """(key, task or None) -> (task, key of its batches)."""

    def one(key, task):
        task_key, inner_key = jax.random.split(key)
        if draw is None:
            return task, inner_key
        with traced("tasks(key)", "the key is traced"):
            task = draw(task_key)
        if not any(isinstance(leaf, type(task_key)) for leaf in jax.tree.leaves(task)):
            warnings.warn(
                "tasks(key) does not depend on its key: every task is the same (draw with the key, "
                "by jax.random, not by NumPy)",
                stacklevel=outside(),
            )
        return task, inner_key

    return one


def _adapted(problem, horizon, metric, sample_inner):
    """(λ, φ, task, key) -> the metric after an inner optimisation."""
    sample = numbered("sample_inner", sample_inner)

    def one(hparams, weights, task, key):
        def batch_at(t):
            return sample(jax.random.fold_in(key, t), task, t)

        batch = jax.eval_shape(batch_at, jnp.int32(0))
        check_update(problem, shapes(hparams), shapes(weights), batch)
        final, _ = InnerRun(problem, hparams, weights, batch_at, horizon).steps()
        if metric is not None:
            return metric(final, hparams, task)
        return problem.outer_loss(final, hparams, second_half(None, task))

    return one


def _drawn_batch(draw):
    def batch(bound, keys, tasks):
        arguments, named = bound
        one = draw and (lambda key: draw(*arguments, key, **named))
        return jax.vmap(_drawn(one))(keys, tasks)

    return batch


def _local(devices, batch_size: int, count: int) -> tuple:
    """The devices, which are this process's and divide the tasks."""
    devices = tuple(check_devices(devices))
    if is_tracing():
        raise ValueError(f"devices={devices}: expected None inside jax.jit")
    if any(device.process_index != jax.process_index() for device in devices):
        raise ValueError(f"devices={devices}: expected this process's, jax.local_devices()")
    if count % len(devices) or batch_size % len(devices):
        raise ValueError(
            f"devices: {len(devices)} of them, with {count} tasks and batch_size={batch_size}; "
            "expected a number that divides both"
        )
    return devices


def _adapted_batch(problem, horizon, metric, sample_inner, devices):
    batch = jax.vmap(_adapted(problem, horizon, metric, sample_inner), (None, None, 0, 0))
    return batch if devices is None else split_over(devices, batch)
