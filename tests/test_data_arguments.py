"""Functions with their data, `jax.tree_util.Partial`: arguments, no constants."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import hdistill as hd
from tests.problems import assert_close, quadratic

CASE = quadratic("sgd", horizon=6)
PROBLEM, HPARAMS, WEIGHTS, BATCHES, OUTER = CASE
READ = jax.tree_util.Partial(lambda data, t: data[t], BATCHES)
LOSSES = jax.tree_util.Partial(lambda data, t: data, OUTER)
KEY = jax.random.key(0)
CALLS = {
    "reverse_mode": lambda b: hd.offline.reverse_mode(
        PROBLEM, HPARAMS, WEIGHTS, b, OUTER, horizon=6
    ),
    "unroll": lambda b: hd.unroll(PROBLEM, HPARAMS, WEIGHTS, b, horizon=6),
    "fit_size": lambda b: hd.fit_size(PROBLEM, HPARAMS, WEIGHTS, b, OUTER, KEY, horizon=6)[0],
    "compare": lambda b: (
        hd.compare(
            PROBLEM, {"a": hd.online.greedy(PROBLEM)}, HPARAMS, WEIGHTS, b, OUTER, horizon=6
        )["a"].cosine
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_function_with_its_data_is_the_data_stacked(name):
    assert_close(CALLS[name](READ), CALLS[name](BATCHES), 1e-12)


def test_outer_batches_too():
    drmad = functools.partial(hd.offline.drmad, PROBLEM, HPARAMS, WEIGHTS, BATCHES, every=3)
    assert_close(drmad(LOSSES), drmad(lambda t: OUTER), 1e-12)


def test_other_data_compile_nothing_and_are_seen():
    traces = []

    def read(data, t):
        traces.append(t)
        return data[t]

    results = []
    for factor in (1, 2):
        batches = jax.tree_util.Partial(read, factor * BATCHES)
        g = hd.offline.one_step(PROBLEM, HPARAMS, WEIGHTS, batches, OUTER, horizon=6)
        results.append((g, len(traces)))
    assert results[0][1] == results[1][1]
    assert_close(
        results[1][0],
        hd.offline.one_step(PROBLEM, HPARAMS, WEIGHTS, 2 * BATCHES, OUTER),
        1e-12,
    )


DATA = jnp.zeros((1000, 4)).at[:6].set(BATCHES[0])


def rows(data, key, task):
    return data[jax.random.randint(key, (6,), 0, 6)] + task


@pytest.mark.parametrize("form", ["learner", "stream"])
def test_samplers_with_data_are_samplers(form):
    results = []
    for sample in (functools.partial(rows, DATA), jax.tree_util.Partial(rows, DATA)):
        more = {"hyper_optimizer": optax.sgd(0.1), "sample_inner": sample, "sample_outer": sample}
        estimator = hd.online.one_step(PROBLEM)
        task = jnp.arange(2.0)
        if form == "learner":
            built = hd.learner(PROBLEM, estimator, horizon=4, **more)
            state = built.init(KEY, HPARAMS, WEIGHTS)
        else:
            built = hd.stream(PROBLEM, estimator, steps=4, **more)
            task = task[1]
            state = built.init(KEY, HPARAMS, WEIGHTS, task)
        results.append(built.step(state, task)[0].hparams)
    assert_close(results[1], results[0], 1e-12)


def test_the_outer_sampler_is_told_the_step():
    seen = hd.learner(
        PROBLEM,
        hd.online.first_order(PROBLEM),
        hyper_optimizer=optax.sgd(0.1),
        horizon=4,
        sample_outer=lambda key, task, t: jnp.full((6, 4), t, float),
        sample_inner=lambda key, task: BATCHES[0],
    )
    _, info = seen.step(seen.init(KEY, HPARAMS, WEIGHTS), jnp.ones((1, 1)))
    w, losses = WEIGHTS, []
    hparams = HPARAMS
    for t in range(4):
        w = PROBLEM.update(w, hparams, BATCHES[0])
        losses.append(PROBLEM.outer_loss(w, hparams, jnp.full((6, 4), t, float)))
        hparams = hparams - 0.1 * hparams  # ∂L_val/∂λ = λ
    assert_close(info.outer_loss, jnp.stack(losses), 1e-12)
