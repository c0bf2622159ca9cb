"""NRES: unbiased for the smoothed loss, also where there is no derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hdistill as hd
from tests.hypergradient.test_common import run_online
from tests.problems import quadratic


def estimates(estimator, case, count):
    """ĝ at w_T of so many runs of one seed each, [count, number of λ]."""
    problem, hparams, weights, batches, outer_batch = case

    def one(key):
        state, w = estimator.init(weights, hparams, batches[0]), weights
        for t in range(batches.shape[0]):
            after = problem.update(w, hparams, batches[t])
            transition = hd.Transition(w, after, hparams, batches[t], outer_batch)
            g, state = estimator.step(state, transition, jax.random.fold_in(key, t))
            w = after
        return g.total

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count)))


def is_mean_of(found, exact):
    """Within five standard errors."""
    error = np.abs(found.mean(0) - np.asarray(exact))
    return (error < 5 * found.std(0) / np.sqrt(len(found))).all()


def test_of_a_quadratic_its_mean_is_the_gradient_and_its_variance_the_law():
    """Smoothing adds a constant to a quadratic, so that the gradient stays."""
    case = quadratic("momentum", horizon=3)
    exact = hd.offline.reverse_mode(*case).total
    found = estimates(hd.online.nres(case.problem, directions=2, spread=0.5), case, 4000)
    assert is_mean_of(found, exact)
    squares = ((found - np.asarray(exact)) ** 2).sum(-1)
    law = (exact.size + 1) / 2 * float(jnp.sum(exact**2))
    assert abs(squares.mean() - law) < 5 * squares.std() / np.sqrt(squares.size)
    assert not is_mean_of(found, hd.offline.one_step(*case).total)


def test_of_a_step_function_it_is_the_smoothed_slope_where_reverse_mode_is_zero():
    """f = (λ > 0.2) after two steps of Φ: E f(λ + σε) has the normal density for its slope."""
    problem = hd.Problem(
        lambda w, h, d: (h > d).astype(w.dtype) + 0 * w, lambda w, h, v: jnp.sum(w * v)
    )
    batches = jnp.full((2, 1), 0.2)
    arguments = problem, jnp.array([0.5]), jnp.zeros(1), batches, jnp.ones(1)
    spread = 0.4
    found = estimates(hd.online.nres(problem, directions=4, spread=spread), arguments, 4000)
    z = (0.5 - 0.2) / spread
    assert is_mean_of(found, [np.exp(-z * z / 2) / np.sqrt(2 * np.pi) / spread])
    with pytest.warns(hd.ZeroHypergradientWarning):
        assert hd.offline.reverse_mode(*arguments).total == 0


def test_the_noise_stays_through_the_run_and_no_product_is_spent():
    case = quadratic("sgd", horizon=3)
    estimator = hd.online.nres(case.problem, directions=1, spread=0.1)
    g = run_online(estimator, *case)
    noise = jax.random.normal(jax.random.key(0), (1, 3), jnp.float32)[0].astype(jnp.float64)

    def f(h):
        end = hd.unroll(case.problem, h, case.weights, case.batches)
        return case.problem.outer_loss(end, h, case.outer_batch)

    expected = (f(case.hparams + 0.1 * noise) - f(case.hparams - 0.1 * noise)) / 0.2 * noise
    np.testing.assert_allclose(g.total, expected, rtol=1e-9)
    assert not g.first_order.any()


def test_a_pair_that_overflows_is_left_out_and_l_val_needs_no_derivative():
    def rough(w, h, v):  # not finite for λ above 1; no derivative anywhere
        steps = jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] + h), (0, h))[1]
        return jnp.where(h > 1, jnp.inf, jnp.floor(10 * steps)).sum()

    problem = hd.Problem(lambda w, h, d: w + 0 * h, rough)
    case = problem, jnp.asarray(0.9), jnp.zeros(()), jnp.zeros(1), None
    found = estimates(hd.online.nres(problem, directions=8, spread=0.1), case, 200)
    assert np.isfinite(found).all() and found.mean() > 0
    lost = estimates(
        hd.online.nres(problem, directions=2, spread=0.1), (problem, case[1] + 9, *case[2:]), 3
    )
    assert np.isnan(lost).all()


def test_bad_arguments_are_named():
    problem = quadratic("sgd").problem
    for name, bad in (("directions", 0), ("directions", 1.5), ("spread", 0.0), ("spread", -1)):
        with pytest.raises(ValueError, match=f"{name}="):
            hd.online.nres(problem, **{name: bad})
