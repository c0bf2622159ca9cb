"""Derivatives that do not exist and runs that diverge: said by info, and kept away from λ."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from tests.problems import assert_close

X, Y = jax.random.normal(jax.random.key(0), (6, 3)), jnp.arange(6.0)
CLIPPED = optax.chain(optax.clip_by_global_norm(1e9), optax.sgd(0.1))


def example_weights(optimizer):
    """λ: a weight for each example, 0 at the start, where the inner gradient is 0."""
    problem = hd.from_losses(
        lambda p, h, b: jnp.sum(h * (X @ p - Y) ** 2),
        lambda p, h, b: jnp.sum((p - 2.0) ** 2),
        optimizer,
    )
    params = jnp.ones(3)
    return problem, jnp.zeros(6), hd.InnerState(params, optimizer.init(params))


def by_hand():
    """-rate times the product of each example's gradient with the outer one."""
    each = jax.vmap(lambda x, y: jax.grad(lambda p: (x @ p - y) ** 2)(jnp.ones(3)))(X, Y)
    return -0.1 * each @ jnp.full(3, -2.0)


@pytest.mark.parametrize("name", ["one_step", "forward_mode", "reverse_mode", "drmad"])
@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), CLIPPED], ids=["sgd", "clipped"])
def test_offline_methods_are_right_or_say_that_they_are_not(name, optimizer):
    result, info = getattr(hd.offline, name)(
        *example_weights(optimizer), None, None, horizon=1, return_info=True
    )
    assert info.finite == np.isfinite(result.total).all()
    assert info.finite or optimizer is CLIPPED
    if info.finite:
        assert_close(result.total, by_hand(), 1e-12)


def test_adam_without_eps_root():
    optimizer = optax.adamw(1e-3)
    problem = hd.from_losses(
        lambda p, h, b: jnp.sum(jnp.array([1.0, 0.0]) * (p - h) ** 2),
        lambda p, h, b: jnp.sum(p**2) + jnp.sum(h**2),
        optimizer,
    )
    weights = hd.InnerState(jnp.ones(2), optimizer.init(jnp.ones(2)))
    for method in (hd.offline.reverse_mode, hd.offline.first_order):
        _, info = method(problem, jnp.zeros(2), weights, None, None, horizon=3, return_info=True)
        assert info.finite == (method is hd.offline.first_order)


PULL = hd.Problem(lambda w, h, d: w - 0.1 * (w - h - d), lambda w, h, v: jnp.sum((w - v) ** 2))
ONE_STEP = hd.online.one_step(PULL)
GOOD = jnp.zeros((2, 2)), jnp.full((2, 2), 3.0)
BAD = GOOD[0].at[1].set(jnp.inf), GOOD[1]


def diverging(method, horizon=4, **options):
    """(learner, its state); of the tasks BAD one is not finite from its third step on."""
    built = hd.learner(
        PULL,
        method,
        hyper_optimizer=optax.adam(0.1),
        horizon=horizon,
        sample_inner=lambda key, task, t: jnp.where(t >= 2, task[0], jnp.zeros(2)),
        **options,
    )
    return built, built.init(jax.random.key(0), jnp.ones(2), jnp.ones(2))


def test_a_hypergradient_that_is_not_finite_moves_nothing():
    built, state = diverging(ONE_STEP)
    state, info = built.step(state, BAD)
    np.testing.assert_array_equal(info.finite, [True, True, False, False])
    np.testing.assert_array_equal(info.moved, [True, True, False, False])
    shorter, short = diverging(ONE_STEP, horizon=2)  # the two steps that were taken
    short, _ = shorter.step(short, BAD)
    assert_close((state.hparams, state.hyper_state), (short.hparams, short.hyper_state), 1e-12)
    state, info = built.step(state, GOOD)
    assert info.moved.all() and info.finite.all() and np.isfinite(state.hparams).all()


def test_take_takes_it():
    built, state = diverging(ONE_STEP, nonfinite="take")
    state, info = built.step(state, BAD)
    np.testing.assert_array_equal(info.finite, [True, True, False, False])
    assert info.moved.all() and not np.isfinite(state.hparams).any()


def test_an_offline_method_in_the_learner():
    built, state = diverging(hd.offline.reverse_mode)
    state, info = built.step(state, BAD)
    assert not info.finite and not info.moved and (state.hparams == 1).all()
    state, info = built.step(state, GOOD)
    assert info.finite and info.moved and (state.hparams != 1).all()


@pytest.mark.parametrize("name", ["hyperdistill", "robust_hyperdistill"])
def test_a_missing_derivative_is_reported_by_estimators_that_fit(name):
    optimizer = CLIPPED
    problem = hd.from_losses(
        lambda p, h, b: h * jnp.mean((b @ p) ** 2),
        lambda p, h, b: jnp.mean((b @ p - 1) ** 2),
        optimizer,
    )
    weights = hd.InnerState(jnp.zeros(3), optimizer.init(jnp.zeros(3)))
    built = hd.learner(
        problem, getattr(hd.online, name)(problem), hyper_optimizer=optax.sgd(0.1), horizon=2
    )
    tasks = jnp.ones((2, 4, 3)), jnp.ones((2, 4, 3))
    state, info = built.step(built.init(jax.random.key(0), jnp.ones(()), weights), tasks)
    assert not info.finite.any() and not info.moved.any() and state.hparams == 1
    assert info.fit == hd.FitStatus.REFUSED_NOT_FINITE


def test_where_the_hparams_rest_the_loss_alone_is_looked_at():
    built, state = diverging(ONE_STEP, last=1)
    _, info = built.step(state, BAD)
    np.testing.assert_array_equal(info.finite, [True, True, False, False])
    np.testing.assert_array_equal(info.moved, [False] * 4)
    np.testing.assert_array_equal(info.second_order_norm[:3], 0)


def test_a_stream_keeps_its_hparams_too():
    built = hd.stream(PULL, ONE_STEP, hyper_optimizer=optax.sgd(0.1), steps=2)
    task = jnp.full(2, jnp.inf), jnp.ones(2)
    state = built.init(jax.random.key(0), jnp.ones(2), jnp.ones(2), task)
    state, info = built.step(state, task)
    assert not info.finite.any() and not info.moved.any() and (state.hparams == 1).all()
