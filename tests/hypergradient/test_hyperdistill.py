"""HyperDistill: distilled weights and data, the fit of its size, its limits at γ = 0 and γ = 1."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill.hypergradient.distill import mix_batches
from tests.problems import assert_close, mlp, quadratic, transitions


def run_online(case, estimator, theta=None):
    """(hypergradient, state) after every step; keys are fold_in(key(0), t)."""
    step = jax.jit(estimator.step)
    first = jax.tree.map(lambda x: x[0], case.batches)
    state = estimator.init(case.weights, case.hparams, first)
    if theta is not None:
        state = state._replace(theta=jnp.asarray(theta, state.theta.dtype))
    results = []
    for t, transition in enumerate(transitions(case)):
        result, state = step(state, transition, jax.random.fold_in(jax.random.key(0), t))
        results.append((result, state))
    return results


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 1.0])
def test_distilled_weights_are_the_weighted_sum(gamma):
    case = quadratic("momentum")
    past = [t.previous for t in transitions(case)]
    for t, (_, state) in enumerate(
        run_online(case, hd.online.hyperdistill(case.problem, gamma=gamma))
    ):
        share = np.array([gamma ** (t - i) for i in range(t + 1)])
        share /= share.sum()  # γ = 1: the plain average; γ = 0: w_{t-1}, since 0**0 is 1
        expected = jax.tree.map(lambda *xs: sum(s * x for s, x in zip(share, xs)), *past[: t + 1])
        assert_close(state.weights, expected, 1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_without_memory_it_is_one_step_bit_for_bit(dtype):
    case = mlp("momentum", dtype=dtype, horizon=3)
    distilled = run_online(case, hd.online.hyperdistill(case.problem, gamma=0.0), theta=1.0)
    one_step = run_online(case, hd.online.one_step(case.problem))
    for (actual, _), (expected, _) in zip(distilled, one_step):
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_counters_of_the_distilled_weights_are_the_last_step_s():
    case = mlp("adam")
    for t, (_, state) in enumerate(run_online(case, hd.online.hyperdistill(case.problem))):
        assert state.weights.opt_state[0].count == t


def test_decay_sum_in_float32_at_gamma_near_one():
    case = quadratic(horizon=100, dtype=jnp.float32)
    state = run_online(case, hd.online.hyperdistill(case.problem, gamma=0.9999))[-1][1]
    expected = (1 - 0.9999**100) / (1 - 0.9999)
    assert abs(state.decay_sum / expected - 1) < 1e-6


@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_distilled_batch_has_the_expected_share_of_each_past_batch(gamma):
    size, steps, keys = 5, 6, 4000
    problem = quadratic("sgd").problem
    estimator = hd.online.hyperdistill(problem, gamma=gamma)
    weights, hparams = quadratic("sgd").weights, jnp.zeros(3)

    def final(key):
        state = estimator.init(weights, hparams, jnp.full((size,), -1))
        for t, mix_key in enumerate(jax.random.split(key, steps)):
            batch = jnp.full((size,), t)
            transition = hd.Transition(weights, weights, hparams, batch, None)
            state = estimator.observe(state, transition, mix_key)
        return state.batch

    drawn = jax.jit(jax.vmap(final))(jax.random.split(jax.random.key(3), keys))
    assert drawn.shape == (keys, size)
    shares = np.array([(drawn == t).mean() for t in range(steps)])
    expected = np.array([gamma ** (steps - 1 - t) for t in range(steps)])
    expected /= expected.sum()
    # Examples of one batch are not independent, batches are: at most 0.5 / √keys standard errors.
    np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / np.sqrt(keys))


def test_mixing_keeps_places_and_pairs():
    old = {"x": jnp.arange(8.0)[:, None], "y": jnp.arange(8)}
    new = {"x": 100 + jnp.arange(8.0)[:, None], "y": 100 + jnp.arange(8)}
    mixed = mix_batches(jax.random.key(0), jnp.asarray(0.5), old, new)
    np.testing.assert_array_equal(mixed["x"][:, 0], mixed["y"])
    np.testing.assert_array_equal(mixed["y"] % 100, jnp.arange(8))
    assert (mixed["y"] < 100).sum() == 4
    same = mix_batches(jax.random.key(1), jnp.asarray(0.3), new, new)
    jax.tree.map(np.testing.assert_array_equal, same, new)


def test_fixed_size_is_the_norm_of_the_second_order_term():
    case = mlp("sgd")
    unit = run_online(case, hd.online.hyperdistill(case.problem, gamma=0.9, size=1.0))
    double = run_online(case, hd.online.hyperdistill(case.problem, gamma=0.9, size=2.0))
    fitted = run_online(case, hd.online.hyperdistill(case.problem, gamma=0.9))
    for (one, _), (two, _), (free, _) in zip(unit, double, fitted):
        assert_close(optax.tree.norm(one.second_order), 1.0, 1e-12)
        assert_close(two.second_order, optax.tree.scale(2.0, one.second_order), 1e-12)
        norm = optax.tree.norm(free.second_order)
        assert_close(one.second_order, optax.tree.scale(1 / norm, free.second_order), 1e-12)


def reference_fit(case, key, gamma):
    """Algorithm 4 with Python loops, dense Jacobians and NumPy, on a problem with SGD only."""
    problem, hparams, weights, batches, outer_batch = case
    horizon, size = batches.shape[:2]
    params = [weights.params]
    for batch in batches:
        params.append(
            problem.update(hd.InnerState(params[-1], weights.opt_state), hparams, batch).params
        )

    def phi(w, h, batch):
        return problem.update(hd.InnerState(w, weights.opt_state), h, batch).params

    def loss(w):
        return problem.outer_loss(hd.InnerState(w, ()), hparams, outer_batch)

    jacobians = jax.jit(jax.jacfwd(phi, (0, 1)))
    alpha = final_alpha = jax.grad(loss)(params[-1])
    total, distilled, mixed, x, y = np.zeros(3), None, None, [], []
    for s in range(1, horizon + 1):
        t = horizon - s
        point = (1 - t / horizon) * params[0] + (t / horizon) * params[-1]
        a, b = jacobians(point, hparams, batches[t])
        total, alpha = total + alpha @ b, alpha @ a
        weight = np.array([gamma**j for j in range(s)])  # of ŵ_{T-1}, ŵ_{T-2}, …
        p = 1 - weight[-1] / weight.sum()
        distilled = point if s == 1 else p * distilled + (1 - p) * point
        place_key, count_key = jax.random.split(jax.random.fold_in(key, t))
        count = np.floor(p * size + jax.random.uniform(count_key, dtype=jnp.float64))
        from_old = np.asarray(jax.random.permutation(place_key, size)) < count
        mixed = batches[t] if s == 1 else np.where(from_old[:, None], mixed, batches[t])
        v = np.asarray(final_alpha @ jacobians(distilled, hparams, jnp.asarray(mixed))[1])
        x.append(np.linalg.norm(v) * weight.sum())
        y.append(v / np.linalg.norm(v) @ total)
    return np.dot(x, y) / np.dot(x, x), np.array(x), np.array(y)


@pytest.mark.parametrize("gamma", [0.0, 0.8, 1.0])
def test_fit_size_equals_algorithm_4_in_loops(gamma):
    case = quadratic("sgd", horizon=6)
    # A term that makes the data matter to v: λ scales the pull of D.
    problem = hd.from_losses(
        lambda w, h, d: (
            0.5 * jnp.sum((w - (1 + h.sum()) * d.mean(0)) ** 2 * jnp.array([1, 2, 3, 4.0]))
            + 0.1 * jnp.sum(jnp.sin(w) ** 2) * h[0]
        ),
        lambda w, h, d: 0.5 * jnp.sum((w - d.mean(0)) ** 2),
        optax.sgd(0.1),
    )
    case = case._replace(problem=problem)
    key = jax.random.key(7)
    theta, samples = jax.jit(lambda: hd.fit_size(*case, key, gamma=gamma))()
    expected_theta, x, y = reference_fit(case, key, gamma)
    assert_close(samples.x, x, 1e-10)
    assert_close(samples.y, y, 1e-10)
    assert_close(theta, expected_theta, 1e-10)
    with pytest.raises(AssertionError):
        assert_close(reference_fit(case, key, 0.4)[1], x, 1e-10)
