"""The fit of θ: what is refused, what stays in force, and what becomes of λ without it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill.hypergradient.fit import Fit
from tests.hypergradient.digit_streams import CHANCE, run_streams
from tests.problems import assert_close, quadratic


@pytest.mark.parametrize(
    "theta, status",
    [
        (0.3, "USED"),
        (1e30, "USED"),
        (0.0, "REFUSED_NOT_POSITIVE"),
        (-0.3, "REFUSED_NOT_POSITIVE"),
        (np.nan, "REFUSED_NOT_FINITE"),
        (np.inf, "REFUSED_NOT_FINITE"),
        (-np.inf, "REFUSED_NOT_FINITE"),
        (1e300, "REFUSED_NOT_FINITE"),  # in float32, that of what is in force
    ],
)
def test_which_sizes_are_refused(theta, status):
    fit = Fit(1.0, None, lambda statistics: statistics, None)
    old = jnp.float32(0.7)
    in_force, code = fit.accept(jnp.asarray(theta), old)
    assert hd.FitStatus(int(code)).name == status and code.dtype == jnp.int8
    assert in_force == (jnp.float32(theta) if status == "USED" else old)


def fitted_to(sizes):
    """HyperDistill whose m-th fit comes out as sizes[m], whatever the task."""
    estimator = hd.online.hyperdistill(quadratic().problem)
    calls = iter(sizes)
    fit = estimator.fit._replace(solve=lambda statistics: jnp.asarray(next(calls)))
    return estimator._replace(fit=fit)


def test_the_last_size_used_stays_in_force():
    case = quadratic()
    tasks = tuple(jnp.stack([x] * 2) for x in (case.batches[0], case.outer_batch))
    fits = []
    # λ's optimizer is at rest, so that the state goes from one learner to the next.
    state = None
    for size in (-2.0, 0.5, np.nan, -1.0, 0.8):
        built = hd.learner(
            case.problem,
            fitted_to([size] * 9),
            hyper_optimizer=optax.sgd(0.0),
            horizon=3,
            fit_period=lambda m: m != 2,
        )
        if state is None:
            state = built.init(jax.random.key(0), case.hparams, case.weights)
        state, info = built.step(state, tasks)
        fits.append((float(info.theta), hd.FitStatus(int(info.fit)).name, int(info.products)))
    assert fits == [
        (1.0, "REFUSED_NOT_POSITIVE", 3 + 8),
        (1.0, "NOT_DUE", 3),
        (1.0, "REFUSED_NOT_FINITE", 3 + 8),
        (1.0, "REFUSED_NOT_POSITIVE", 3 + 8),
        (0.8, "USED", 3 + 8),
    ]


@pytest.mark.parametrize("name", ["one_step", "hyperdistill", "robust_hyperdistill"])
def test_info_of_every_estimator(name):
    case = quadratic()
    built = hd.learner(
        case.problem,
        getattr(hd.online, name)(case.problem),
        hyper_optimizer=optax.sgd(0.01),
        horizon=4,
        every=2,
    )
    tasks = tuple(jnp.stack([x] * 2) for x in (case.batches[0], case.outer_batch))
    state, info = built.step(built.init(jax.random.key(0), case.hparams, case.weights), tasks)
    assert info.theta.shape == () and info.theta > 0
    fits = name != "one_step"
    assert info.fit == (hd.FitStatus.USED if fits else hd.FitStatus.NONE)
    np.testing.assert_array_equal(info.moved, [False, True, False, True])
    np.testing.assert_array_equal(info.finite, [True] * 4)
    np.testing.assert_array_equal(info.first_order_norm > 0, info.moved)
    np.testing.assert_array_equal(info.second_order_norm > 0, info.moved)
    np.testing.assert_array_equal(info.hparams, state.hparams)
    compared = hd.compare(case.problem, {name: getattr(hd.online, name)(case.problem)}, *case[1:])[
        name
    ]
    assert isinstance(compared.theta, float)
    assert compared.fit == (hd.FitStatus.USED if fits else hd.FitStatus.NONE)
    assert np.isnan(compared.theta) != fits


def test_a_stream_of_single_steps_is_fitted_over_batches_of_its_loader():
    case = quadratic("momentum", horizon=5)
    estimator = hd.online.hyperdistill(case.problem, gamma=0.8)
    built = hd.stream(
        case.problem, estimator, hyper_optimizer=optax.sgd(0.01), steps=1, fit_period=None
    )
    full = jnp.broadcast_to(
        case.batches[0], case.batches.shape
    )  # D* is the batch, whatever is drawn
    task = (full[0], case.outer_batch)
    state = built.init(jax.random.key(0), case.hparams, case.weights, task)
    state, info = built.step(state, task)
    assert info.theta == 1 and info.fit == hd.FitStatus.NOT_DUE and info.products == 1
    expected, _ = hd.fit_size(
        case.problem,
        state.hparams,
        state.weights,
        full,
        case.outer_batch,
        jax.random.key(9),
        gamma=0.8,
    )
    state, info = built.fit(state, full, case.outer_batch)
    assert_close(info.theta, expected, 1e-12)
    assert info.fit == hd.FitStatus.USED and info.products == 3 * 5 - 1
    _, info = built.step(state, task)
    assert_close(info.theta, expected, 1e-12)


def test_digits_end_at_chance_unless_bad_fits_are_refused():
    options = {"stretch": 100, "gamma": 0.9, "momentum": 0.9, "rate": 0.01, "steps": 800}
    literal, *_ = run_streams("literal", seeds=4, **options)
    refusing, _, theta, fit = run_streams("refuse", seeds=4, **options)
    assert (literal < CHANCE).sum() >= 2  # the problem is hard enough
    assert (refusing > 0.8).all() and (theta > 0).all()
    assert (fit >= hd.FitStatus.REFUSED_NOT_FINITE).any()
