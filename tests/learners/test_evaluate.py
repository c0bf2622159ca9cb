"""hd.evaluate: a loop by hand, tasks drawn or stacked, metrics, what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hdistill as hd
from tests.problems import assert_close, quadratic

CASE = quadratic("momentum", horizon=3)
PROBLEM, HPARAMS, WEIGHTS, BATCHES, OUTER = CASE
TASKS = tuple(jnp.stack([x, 2 * x, -x]) for x in (BATCHES[0], OUTER))


def by_hand(task, steps=3):
    weights = WEIGHTS
    for _ in range(steps):
        weights = PROBLEM.update(weights, HPARAMS, task[0])
    return weights


@pytest.mark.parametrize("batch_size", [None, 1, 2, 9])
def test_each_task_is_adapted_to_and_measured(batch_size):
    figures = hd.evaluate(PROBLEM, HPARAMS, WEIGHTS, TASKS, horizon=3, batch_size=batch_size)
    tasks = [jax.tree.map(lambda x: x[i], TASKS) for i in range(3)]
    expected = [PROBLEM.outer_loss(by_hand(task), HPARAMS, task[1]) for task in tasks]
    assert_close(figures, jnp.stack(expected), 1e-12)


def test_tasks_and_batches_are_drawn_by_the_key():
    def draw(key):
        noise = jax.random.normal(key, BATCHES[0].shape)
        return noise, noise[:2]

    def sample(key, task, t):
        return task[0] + t + jax.random.normal(key, ())

    def metric(weights, hparams, task):
        return {"norm": jnp.sum(weights.params**2), "first": task[0][0, 0]}

    key = jax.random.key(7)
    options = {"horizon": 2, "metric": metric, "sample_inner": sample, "count": 4}
    figures = hd.evaluate(PROBLEM, HPARAMS, WEIGHTS, draw, key=key, batch_size=3, **options)
    for i, one in enumerate(jax.random.split(key, 4)):
        task_key, inner_key = jax.random.split(one)
        task, weights = draw(task_key), WEIGHTS
        for t in range(2):
            batch = sample(jax.random.fold_in(inner_key, t), task, t)
            weights = PROBLEM.update(weights, HPARAMS, batch)
        assert_close(figures["norm"][i], jnp.sum(weights.params**2), 1e-12)
        assert_close(figures["first"][i], task[0][0, 0], 1e-12)
    other = hd.evaluate(PROBLEM, HPARAMS, WEIGHTS, draw, **options)
    assert not np.allclose(other["norm"], figures["norm"])


def test_a_second_call_compiles_nothing():
    traces = itertools.count()

    def metric(weights, hparams, task):
        next(traces)
        return jnp.sum(weights.params)

    for scale in (1.0, 2.0):
        hd.evaluate(PROBLEM, scale * HPARAMS, WEIGHTS, TASKS, horizon=2, metric=metric)
    assert next(traces) == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"horizon": 0}, "horizon=0"),
        ({"count": 3}, "count=3.*stacked"),
        ({"tasks": lambda key: TASKS}, "count=None"),
        ({"tasks": lambda: TASKS, "count": 2}, r"tasks=.*\(key\)"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"metric": lambda weights: 0.0}, r"metric=.*\(weights, hparams, task\)"),
        ({"key": 3}, "key=3"),
        ({"sample_inner": lambda key: 0}, "sample_inner="),
        ({"tasks": TASKS[:1]}, "tasks is a tuple.*item 1"),
        ({"weights": None}, "weights=None"),
        ({"problem": None}, "problem=None"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    given = {"problem": PROBLEM, "hparams": HPARAMS, "weights": WEIGHTS, "tasks": TASKS}
    given |= {"horizon": 3} | arguments
    positional = [given.pop(name) for name in ("problem", "hparams", "weights", "tasks")]
    with pytest.raises(ValueError, match=words):
        hd.evaluate(*positional, **given)


@pytest.mark.parametrize("draw", [None, lambda key: jax.random.normal(key, (2, *OUTER.shape))])
def test_over_devices_the_figures_are_the_same(draw):
    twelve = jax.tree.map(lambda x: jnp.concatenate([x, -x, 2 * x, x / 2]), TASKS)
    given = {"horizon": 3, "batch_size": 8} | ({"count": 12} if draw else {})
    tasks = draw or twelve
    one = hd.evaluate(PROBLEM, HPARAMS, WEIGHTS, tasks, **given)
    four = hd.evaluate(PROBLEM, HPARAMS, WEIGHTS, tasks, devices=jax.devices()[:4], **given)
    assert_close(four, one, 1e-12)


@pytest.mark.parametrize("size", [{"batch_size": 2}, {"batch_size": 3}])
def test_devices_that_do_not_divide_the_batch_are_refused(size):
    with pytest.raises(ValueError, match="devices: 2 of them, with 3 tasks"):
        hd.evaluate(PROBLEM, HPARAMS, WEIGHTS, TASKS, horizon=3, devices=jax.devices()[:2], **size)


def test_two_numbers_of_tasks_share_a_program():
    traces = itertools.count()

    def metric(weights, hparams, task):
        next(traces)
        return jnp.sum(weights.params)

    for count in (2, 4):
        tasks = jax.tree.map(lambda x: jnp.concatenate([x, x])[:count], TASKS)
        hd.evaluate(PROBLEM, HPARAMS, WEIGHTS, tasks, horizon=2, metric=metric, batch_size=2)
    assert next(traces) == 1


def test_tasks_may_lie_on_another_device_and_be_drawn_from_bound_arrays():
    two, pool = jax.devices()[:2], jnp.stack([BATCHES[0], 2 * BATCHES[0]])

    def draw(key, pool):
        return pool[jax.random.randint(key, (), 0, 2)], OUTER

    bound = jax.tree_util.Partial(draw, pool=pool)
    one = hd.evaluate(PROBLEM, HPARAMS, WEIGHTS, bound, horizon=3, count=4)
    closed = hd.evaluate(PROBLEM, HPARAMS, WEIGHTS, lambda key: draw(key, pool), horizon=3, count=4)
    assert_close(one, closed, 1e-12)
    tasks = jax.device_put(jax.tree.map(lambda x: x[:2], TASKS), two[1])
    spread = hd.evaluate(PROBLEM, HPARAMS, WEIGHTS, tasks, horizon=3, devices=two)
    assert_close(spread, hd.evaluate(PROBLEM, HPARAMS, WEIGHTS, TASKS, horizon=3)[:2], 1e-12)
