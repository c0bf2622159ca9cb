"""pmap over four host devices gives the numbers of vmap on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from tests.problems import assert_close
from tests.test_learner import SAMPLERS, data_problem, make_tasks

METHODS = {
    "hyperdistill": lambda problem: hd.online.hyperdistill(problem, gamma=0.9),
    "drmad": lambda problem: hd.offline.drmad,
}


@pytest.mark.parametrize(
    "method, every, dtype, tolerance",
    [
        ("hyperdistill", 2, jnp.float64, 1e-12),
        ("drmad", 1, jnp.float32, 1e-6),
    ],
)
def test_pmap_equals_vmap(method, every, dtype, tolerance):
    problem, hparams, weights = data_problem()
    cast = functools.partial(jax.tree.map, lambda x: x.astype(dtype))
    built = hd.learner(
        problem,
        METHODS[method](problem),
        hyper_optimizer=optax.sgd(0.05, momentum=0.9),
        initialization=hd.fomaml(optax.adam(0.01)),
        horizon=6,
        every=every,
        fit_period=2,
        **SAMPLERS,
    )
    tasks = cast(make_tasks(8))
    pmapped = hd.pmap_step(built)
    one = built.init(jax.random.key(0), cast(hparams), cast(weights))
    many = built.init(jax.random.key(0), cast(hparams), cast(weights))
    for _ in range(3):
        one, info = built.step(one, tasks)
        many, mapped_info = pmapped(many, tasks)
    for expected, actual in [
        (one.hparams, many.hparams),
        (one.weights, many.weights),
        (info.outer_loss, mapped_info.outer_loss),
        (info.theta, mapped_info.theta),
    ]:
        assert_close(actual, expected, tolerance)
    assert info.products == mapped_info.products
    assert np.abs(one.hparams - hparams).max() > 0.01  # λ moved


def test_any_number_of_devices():
    problem, hparams, weights = data_problem()
    built = hd.learner(
        problem, hd.online.one_step(problem), hyper_optimizer=optax.sgd(0.1), horizon=2
    )
    results = []
    for count in (1, 2, 4):
        step = hd.pmap_step(built, jax.devices()[:count])
        state, _ = step(built.init(jax.random.key(0), hparams, weights), make_tasks(4))
        results.append(state.hparams)
    assert_close(results[1], results[0], 1e-12)
    assert_close(results[2], results[0], 1e-12)
