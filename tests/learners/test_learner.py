"""The learner: Algorithm 3 against a straight-line reference, schedules, one trace, donation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from tests.problems import (
    SAMPLERS,
    TASKS,
    assert_close,
    data_problem,
    make_tasks,
    mlp,
    quadratic,
    sample,
    transitions,
)


def reference_algorithm_3(state, tasks, gamma, horizon, every, learning_rate):
    """One inner optimisation of Algorithm 3: loops over steps and tasks, jax.grad, jacfwd."""
    problem, _, _ = data_problem()
    params = jax.jit(jax.jacfwd(lambda h, w, d: problem.update(w, h, d).params))
    outer_gradient = jax.jit(
        jax.grad(lambda w, h, v: problem.outer_loss(hd.InnerState(w, None), h, v), (0, 1))
    )
    _, step_key = jax.random.split(state.key)
    hparams = state.hparams
    weights = [state.weights] * TASKS
    distilled, mixed = [None] * TASKS, [None] * TASKS
    for t in range(1, horizon + 1):
        gradients = []
        for i in range(TASKS):
            key = jax.random.fold_in(jax.random.fold_in(step_key, i), t - 1)
            inner_key, outer_key, mix_key = jax.random.split(key, 3)
            task = [half[i] for half in tasks]
            batch, outer_batch = sample(0, inner_key, task), sample(1, outer_key, task)
            p = 1 - 1 / sum(gamma**k for k in range(t))
            if t == 1:
                distilled[i], mixed[i] = weights[i], batch
            else:
                distilled[i] = jax.tree.map(
                    lambda a, b: p * a + (1 - p) * b, distilled[i], weights[i]
                )
                place_key, count_key = jax.random.split(mix_key)
                count = np.floor(6 * p + jax.random.uniform(count_key, dtype=jnp.float64))
                from_old = np.asarray(jax.random.permutation(place_key, 6)) < count
                mixed[i] = np.where(from_old[:, None], mixed[i], batch)
            weights[i] = problem.update(weights[i], hparams, batch)
            alpha, first_order = outer_gradient(weights[i].params, hparams, outer_batch)
            v = alpha @ params(hparams, distilled[i], jnp.asarray(mixed[i]))
            size = state.theta * jnp.linalg.norm(v) * sum(gamma**k for k in range(t))
            gradients.append(first_order + size * v / jnp.linalg.norm(v))
        if t % every == 0:
            hparams = hparams - learning_rate * sum(gradients) / TASKS
    final = sum(w.params for w in weights) / TASKS
    return hparams, state.weights.params + 0.5 * (final - state.weights.params)


@pytest.mark.parametrize("gamma, every", [(0.8, 1), (1.0, 2)])
def test_online_run_equals_algorithm_3_in_a_straight_line(gamma, every):
    problem, hparams, weights = data_problem()
    built = hd.learner(
        problem,
        hd.online.hyperdistill(problem, gamma=gamma),
        hyper_optimizer=optax.sgd(0.05),
        initialization=hd.reptile(0.5),
        horizon=5,
        every=every,
        fit_period=2,
        **SAMPLERS,
    )
    state = built.init(jax.random.key(4), hparams, weights)
    for _ in range(2):
        before = jax.tree.map(jnp.copy, state)
        state, info = built.step(state, make_tasks())
        before = before._replace(theta=info.theta)
        expected = reference_algorithm_3(before, make_tasks(), gamma, 5, every, 0.05)
        assert_close(state.hparams, expected[0], 1e-12)
        assert_close(state.weights.params, expected[1], 1e-12)
        with pytest.raises(AssertionError):  # a θ that is off by a thousandth is another
            off = before._replace(theta=1.001 * info.theta)
            expected = reference_algorithm_3(off, make_tasks(), gamma, 5, every, 0.05)
            assert_close(state.hparams, expected[0], 1e-6)


def simple(estimator=None, horizon=6, optimizer=None, **arguments):
    case = quadratic("momentum")
    built = hd.learner(
        case.problem,
        hd.online.one_step(case.problem) if estimator is None else estimator(case.problem),
        hyper_optimizer=optimizer or optax.sgd(0.0),
        horizon=horizon,
        **arguments,
    )
    tasks = case.batches[:2], jnp.stack([case.outer_batch, case.outer_batch + 0.1])  # full batches
    return built, built.init(jax.random.key(0), case.hparams, case.weights), tasks, case


def test_theta_is_fitted_over_the_samples_of_all_tasks():
    built, state, tasks, case = simple(hd.online.hyperdistill)
    _, info = built.step(state, tasks)
    xy = xx = 0
    for i in range(2):
        inner, outer = jax.tree.map(lambda x: x[i], tasks)
        _, (x, y) = hd.fit_size(
            case.problem,
            case.hparams,
            case.weights,
            lambda t: inner,
            outer,
            jax.random.key(0),
            horizon=6,
        )  # full batches: D* is the batch, whatever the key
        xy, xx = xy + x @ y, xx + x @ x
    assert_close(info.theta, xy / xx, 1e-12)


@pytest.mark.parametrize(
    "fit_period, fitted_at",
    [(3, {1, 4, 7}), (100, {1}), (lambda m: (m == 2) | (m == 3), {2, 3})],
    ids=["period", "once", "function"],
)
def test_fit_schedule_and_products(fit_period, fitted_at):
    built, state, tasks, _ = simple(
        hd.online.hyperdistill, fit_period=fit_period, optimizer=optax.sgd(0.1)
    )
    theta = 1.0
    for m in range(1, 8):
        state, info = built.step(state, tasks)
        fitted = m in fitted_at
        assert info.products == 6 + (3 * 6 - 1) * fitted
        assert (info.theta != theta) == fitted
        theta = info.theta
    assert state.done == 7


def products_and_moves(estimator, **arguments):
    built, state, tasks, _ = simple(estimator, optimizer=optax.sgd(1e-3), **arguments)
    _, info = built.step(state, tasks)
    return int(info.products), info


def test_products_and_moves_of_every_method():
    online, offline = hd.online, hd.offline
    assert products_and_moves(online.first_order)[0] == 0
    assert products_and_moves(online.one_step)[0] == 6
    assert products_and_moves(online.one_step, every=4)[0] == 1
    neumann = functools.partial(online.implicit, terms=5)
    products, info = products_and_moves(neumann, last=2)
    assert products == 2 * 6
    np.testing.assert_array_equal(info.moved, [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(info.first_order_norm > 0, info.moved)
    assert np.isfinite(info.outer_loss).all() and info.outer_loss.shape == (6,)
    assert products_and_moves(lambda problem: offline.drmad)[0] == 11
    ring = functools.partial(online.reverse_mode, window=4)
    assert products_and_moves(ring)[0] == 1 + 3 + 5 + 7 + 7 + 7


def test_offline_methods_move_hparams_once_by_the_mean_hypergradient():
    method = functools.partial(hd.offline.reverse_mode, checkpoint=True)
    built, state, tasks, case = simple(lambda problem: method, optimizer=optax.sgd(0.1))
    after, info = built.step(state, tasks)
    results = []
    for i in range(2):
        inner, outer = jax.tree.map(lambda x: x[i], tasks)
        arguments = case.hparams, case.weights, lambda t, inner=inner: inner, outer
        results.append(hd.offline.reverse_mode(case.problem, *arguments, horizon=6))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *results)
    expected = jax.tree.map(lambda h, g: h - 0.1 * g, case.hparams, mean.total)
    assert_close(after.hparams, expected, 1e-10)
    assert_close(info.first_order_norm, [optax.tree.norm(mean.first_order)], 1e-10)
    assert_close(info.second_order_norm, [optax.tree.norm(mean.second_order)], 1e-10)


def moving(case):
    """Transitions of an inner optimisation in which λ drifts from step to step, and its shifts."""
    weights, path = case.weights, []
    for t in range(jax.tree.leaves(case.batches)[0].shape[0]):
        hparams = jax.tree.map(lambda x: x + 0.05 * t, case.hparams)
        batch = jax.tree.map(lambda x: x[t], case.batches)
        current = case.problem.update(weights, hparams, batch)
        path.append(hd.Transition(weights, current, hparams, batch, case.outer_batch))
        weights = current
    return path


def run_over(estimator, case, path):
    state = estimator.init(case.weights, case.hparams, path[0].batch)
    step = jax.jit(estimator.step)
    for transition in path:
        result, state = step(state, transition, jax.random.key(0))
        yield result


def test_online_reverse_mode_is_offline_reverse_mode_at_the_present_hparams():
    window = 3
    case = mlp("momentum", horizon=5)
    path = moving(case)
    results = run_over(hd.online.reverse_mode(case.problem, window=window), case, path)
    for t, result in enumerate(results, start=1):
        first = max(0, t - window)
        so_far = case._replace(
            hparams=path[t - 1].hparams,
            weights=path[first].previous,
            batches=jax.tree.map(lambda x: x[first:t], case.batches),
        )
        assert_close(result, hd.offline.reverse_mode(*so_far), 1e-10)


def test_online_forward_mode_is_the_derivative_of_the_trajectory_as_it_was_run():
    case = mlp("momentum", horizon=4)
    path = moving(case)

    def value(shift):
        weights = case.weights
        for transition in path:
            shifted = optax.tree.add(transition.hparams, shift)
            weights = case.problem.update(weights, shifted, transition.batch)
        return case.problem.outer_loss(weights, shifted, case.outer_batch)

    expected = jax.jit(jax.grad(value))(optax.tree.zeros_like(case.hparams))
    *_, last = run_over(hd.online.forward_mode(case.problem), case, path)
    assert_close(last.total, expected, 1e-10)


def test_greedy_is_the_decayed_sum_of_one_step_terms():
    case = quadratic("momentum")
    greedy, one_step = hd.online.greedy(case.problem, gamma=0.7), hd.online.one_step(case.problem)
    first = jax.tree.map(lambda x: x[0], case.batches)
    greedy_state = greedy.init(case.weights, case.hparams, first)
    one_state = one_step.init(case.weights, case.hparams, first)
    terms = []
    for transition in transitions(case):
        result, greedy_state = jax.jit(greedy.step)(greedy_state, transition, jax.random.key(0))
        term, one_state = jax.jit(one_step.step)(one_state, transition, jax.random.key(0))
        terms.append(term.second_order)
        expected = jax.tree.map(
            lambda *x: sum(0.7 ** (len(x) - 1 - i) * v for i, v in enumerate(x)), *terms
        )
        assert_close(result.second_order, expected, 1e-12)


def test_initializations():
    case = quadratic("momentum")
    tasks = tuple(jnp.stack([x, x + 1]) for x in (case.batches[0], case.outer_batch))

    def after(rule):
        built = hd.learner(
            case.problem,
            hd.online.first_order(case.problem),
            hyper_optimizer=optax.sgd(0.0),
            initialization=rule,
            horizon=4,
        )
        return built.step(built.init(jax.random.key(0), case.hparams, case.weights), tasks)[
            0
        ].weights

    final = [
        hd.unroll(case.problem, case.hparams, case.weights, lambda t, d=d: d, horizon=4)
        for d in tasks[0]
    ]
    start = case.weights.params
    mean = (final[0].params + final[1].params) / 2
    assert_close(after(None), case.weights, 0)
    assert_close(after(hd.reptile(1.0)).params, mean, 1e-12)
    assert_close(after(hd.reptile(0.3)).params, start + 0.3 * (mean - start), 1e-12)
    gradient = mean - tasks[1].mean((0, 1))
    assert_close(after(hd.fomaml(0.1)).params, start - 0.1 * gradient, 1e-12)
    by_adam = after(hd.fomaml(optax.adam(0.1))).params
    assert_close(by_adam, start - 0.1 * np.sign(gradient), 1e-6)
    # The optimizer starts each inner optimisation afresh.
    for leaf in jax.tree.leaves(after(hd.reptile(1.0)).opt_state):
        np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("hparams", [jnp.array([0.1, -0.2, 0.3]), [0.1, np.float64(0.2), -0.1]])
def test_one_trace_for_two_hundred_steps(hparams):
    problem, _, weights = data_problem()
    if isinstance(hparams, list):  # Python floats and a NumPy one
        inner = problem

        def stack(h):
            return jnp.stack([jnp.asarray(x) for x in h])

        problem = hd.Problem(
            lambda w, h, d: inner.update(w, stack(h), d),
            lambda w, h, d: inner.outer_loss(w, stack(h), d),
        )
    traces = []

    def update(weights, hparams, batch):
        traces.append(1)
        return problem.update(weights, hparams, batch)

    counted = problem._replace(update=update)
    built = hd.learner(
        counted,
        hd.online.hyperdistill(counted),
        hyper_optimizer=optax.adam(1e-3),
        initialization=hd.reptile(),
        horizon=3,
        **SAMPLERS,
    )
    state = built.init(jax.random.key(0), hparams, weights)
    tasks = make_tasks()
    state, _ = built.step(state, tasks)
    first = len(traces)
    for _ in range(199):
        state, info = built.step(state, tasks)
    assert len(traces) == first and built.step._cache_size() == 1
    assert state.done == 200 and np.isfinite(info.outer_loss).all()


def test_the_state_is_donated_and_the_arguments_are_not():
    built, state, tasks, case = simple(hd.online.one_step)
    after, _ = built.step(state, tasks)
    assert all(x.is_deleted() for x in jax.tree.leaves(state.hparams))
    assert not any(x.is_deleted() for x in jax.tree.leaves((case.hparams, case.weights, after)))


def test_default_samplers_take_the_halves_of_a_task():
    built, state, tasks, case = simple(hd.online.one_step)
    _, info = built.step(state, tasks)
    losses = [
        case.problem.outer_loss(
            hd.unroll(
                case.problem,
                case.hparams,
                case.weights,
                lambda t, i=i: jax.tree.map(lambda x: x[i], tasks[0]),
                horizon=6,
            ),
            case.hparams,
            jax.tree.map(lambda x: x[i], tasks[1]),
        )
        for i in range(2)
    ]
    assert_close(info.outer_loss[-1], sum(losses) / 2, 1e-12)
