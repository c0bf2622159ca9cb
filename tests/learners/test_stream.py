"""hd.stream: one task without end, against a loop in a straight line; stretches; errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from tests.problems import SAMPLERS, assert_close, data_problem, make_tasks, quadratic

KEY = 5


def build(steps, estimator=None, every=2, **arguments):
    problem, hparams, weights = data_problem()
    built = hd.stream(
        problem,
        estimator(problem) if estimator else hd.online.greedy(problem, gamma=0.7),
        hyper_optimizer=optax.sgd(0.05, momentum=0.5),
        steps=steps,
        every=every,
        **SAMPLERS,
        **arguments,
    )
    task = jax.tree.map(lambda x: x[0], make_tasks(1))
    return built, built.init(jax.random.key(KEY), hparams, weights, task), task


def straight_line(steps, every, gamma=0.7):
    """λ and w after so many steps: a Python loop, jacfwd of Φ, jax.grad of L_val."""
    problem, hparams, weights = data_problem()
    task = jax.tree.map(lambda x: x[0], make_tasks(1))
    jacobian = jax.jit(jax.jacfwd(lambda h, w, d: problem.update(w, h, d).params))
    outer = jax.jit(
        jax.grad(lambda p, h, v: problem.outer_loss(hd.InnerState(p, None), h, v), (0, 1))
    )
    draws = jax.random.split(jax.random.key(KEY))[0]
    total, velocity = jnp.zeros(3), jnp.zeros(3)
    for t in range(steps):
        inner_key, outer_key, _ = jax.random.split(jax.random.fold_in(draws, t), 3)
        batch = SAMPLERS["sample_inner"](inner_key, task)
        before, weights = weights, problem.update(weights, hparams, batch)
        if (t + 1) % every == 0:
            alpha, first = outer(weights.params, hparams, SAMPLERS["sample_outer"](outer_key, task))
            total = gamma * total + alpha @ jacobian(hparams, before, batch)
            velocity = 0.5 * velocity + first + total
            hparams = hparams - 0.05 * velocity
    return hparams, weights.params


@pytest.mark.parametrize("every", [1, 2])
def test_a_stream_is_the_loop_in_a_straight_line(every):
    built, state, task = build(4, every=every)
    for _ in range(2):
        state, info = built.step(state, task)
    hparams, params = straight_line(8, every)
    assert_close(state.hparams, hparams, 1e-12)
    assert_close(state.weights.params, params, 1e-12)
    assert info.outer_loss.shape == (4,) and info.products == 4 // every
    with pytest.raises(AssertionError):  # another decay is another
        assert_close(state.hparams, straight_line(8, every, gamma=0.69)[0], 1e-6)


def test_the_length_of_a_stretch_changes_nothing():
    ends = []
    for steps in (2, 6):
        built, state, task = build(steps, lambda p: hd.online.hyperdistill(p, gamma=0.8, size=1.0))
        for _ in range(6 // steps):
            state, _ = built.step(state, task)
        ends.append((state.hparams, state.weights.params, state.estimate.decay_sum))
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_theta_is_fitted_over_the_stretch_to_come():
    built, state, task = build(4, lambda p: hd.online.hyperdistill(p, gamma=0.0), fit_period=2)
    thetas, products = [], []
    for _ in range(3):
        state, info = built.step(state, task)
        thetas.append(float(info.theta))
        products.append(int(info.products))
    assert products == [2 + 11, 2, 2 + 11]
    assert thetas[0] == thetas[1] != thetas[2]


def test_one_trace_for_a_whole_run():
    traces = 0
    problem, hparams, weights = data_problem()

    def update(*arguments):
        nonlocal traces
        traces += 1
        return problem.update(*arguments)

    built = hd.stream(
        problem._replace(update=update),
        hd.online.one_step(problem),
        hyper_optimizer=optax.sgd(0.05),
        steps=2,
        **SAMPLERS,
    )
    task = jax.tree.map(lambda x: x[0], make_tasks(1))
    state, _ = built.step(built.init(jax.random.key(0), hparams, weights, task), task)
    once = traces
    for _ in range(2):
        state, _ = built.step(state, task)
    assert traces == once > 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"every": 3}, "every=3: expected a divisor of steps=4"),
        ({"every": 8}, "every=8: expected a divisor of steps=4"),
        ({"steps": 0}, "steps=0"),
        ({"estimator": hd.offline.drmad}, "no end"),
        ({"hyper_optimizer": 0.1}, "hyper_optimizer=0.1"),
    ],
)
def test_errors_name_the_argument(arguments, words):
    case = quadratic()
    given = {
        "estimator": hd.online.one_step(case.problem),
        "hyper_optimizer": optax.sgd(0.1),
        "steps": 4,
    } | arguments
    with pytest.raises(ValueError, match=words):
        hd.stream(case.problem, given.pop("estimator"), **given)
