"""λ_t: the curve against SciPy's, its hypergradient against a loop written by hand."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.interpolate import CubicHermiteSpline

import hdistill as hd
from tests.problems import assert_close

T = 7


def by_scipy(knots, horizon):
    """The curve at every step, [T]."""
    ends = 2 * knots[:1] - knots[1:2], 2 * knots[-1:] - knots[-2:-1]  # go on in a straight line
    padded = np.concatenate([ends[0], knots, ends[1]])
    slopes = (padded[2:] - padded[:-2]) / 2
    x = np.arange(horizon) * (len(knots) - 1) / (horizon - 1)
    return CubicHermiteSpline(np.arange(len(knots)), knots, slopes)(x)


@pytest.mark.parametrize("count", [2, 3, 5, T])
def test_the_curve_is_scipy_s(count):
    knots = np.random.default_rng(0).normal(size=count)
    found = jax.jit(jax.vmap(lambda t: hd.curve(jnp.asarray(knots), t, T)))(jnp.arange(T))
    expected = knots if count == T else by_scipy(knots, T)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert hd.curve(jnp.asarray(knots), T + 3, T) == pytest.approx(knots[-1], abs=1e-12)


def test_in_half_precision_long_schedules_reach_their_last_knot():
    for dtype, horizon in ((jnp.bfloat16, 1000), (jnp.float16, 100_000)):
        knots = jnp.linspace(0, 1, 11).astype(dtype)
        assert hd.curve(knots, horizon - 1, horizon) == 1
        assert hd.curve(knots, 0, horizon) == 0 and hd.curve(knots, 0, horizon).dtype == dtype


def test_one_knot_is_for_all_steps_and_leaves_may_have_axes():
    knots = {"a": jnp.array([2.0]), "b": jnp.arange(6.0).reshape(3, 2)}
    at = hd.curve(knots, 3, T)  # the middle of three
    assert at["a"] == 2 and at["b"].tolist() == [2.0, 3.0]


def case(outer=lambda w, v: jnp.sum((w - v) ** 2)):
    """A quadratic, its rate on four knots, its momentum on one, a decay that is not scheduled."""
    rng = np.random.default_rng(1)
    hessian = jnp.diag(jnp.linspace(0.5, 2.0, 3))
    batches, params, target = (jnp.asarray(rng.normal(size=s)) for s in ((T, 3), (3,), (3,)))
    hparams = {
        "decay": jnp.asarray(-2.0),
        "curve": {
            "log_rate": jnp.asarray(0.3 * rng.normal(size=4) - 2),
            "momentum": jnp.array([0.8]),
        },
    }

    def inner_loss(w, h, d):
        return 0.5 * w @ hessian @ w - w @ d + jnp.exp(h["decay"]) * jnp.sum(w**2)

    optimizer = hd.schedule(
        lambda at: optax.sgd(jnp.exp(at["log_rate"]), momentum=at["momentum"]),
        hparams["curve"],
        T,
        of=lambda h: h["curve"],
    )
    problem = hd.from_losses(inner_loss, lambda w, h, v: outer(w, v), optimizer)
    start = hd.InnerState(params, optimizer.init(params))

    def by_hand(h):
        matrix = np.stack([by_scipy(unit, T) for unit in np.eye(4)], axis=1)
        rates, w, velocity = jnp.exp(matrix @ h["curve"]["log_rate"]), params, jnp.zeros(3)
        for t in range(T):
            gradient = hessian @ w - batches[t] + 2 * jnp.exp(h["decay"]) * w
            velocity = gradient + h["curve"]["momentum"][0] * velocity
            w = w - rates[t] * velocity
        return outer(w, target)

    return (problem, hparams, start, batches, target), by_hand


@pytest.mark.parametrize("method", [hd.offline.reverse_mode, hd.offline.forward_mode])
def test_its_hypergradient_is_that_of_a_loop_by_hand(method):
    arguments, by_hand = case()
    exact = jax.jit(jax.grad(by_hand))(arguments[1])
    assert_close(method(*arguments).total, exact, 1e-10)


def test_a_curve_a_step_late_is_seen(monkeypatch):
    arguments, by_hand = case()
    module, right = sys.modules["hdistill.schedule"], hd.curve
    monkeypatch.setattr(module, "curve", lambda knots, step, T: right(knots, step + 1, T))
    g = hd.offline.reverse_mode(*arguments).total
    with pytest.raises(AssertionError):
        assert_close(g, jax.jit(jax.grad(by_hand))(arguments[1]), 1e-3)


def test_in_a_chain_and_in_a_learner_it_lowers_the_loss():
    (_, _, start, _, target), _ = case()
    optimizer = optax.chain(
        optax.clip_by_global_norm(10.0),
        hd.schedule(lambda at: optax.adam(jnp.exp(at), eps_root=1e-8), jnp.full(3, -4.0), T),
    )

    def loss(w, h, d):
        return jnp.sum((w - d) ** 2)

    problem = hd.from_losses(loss, loss, optimizer)
    built = hd.learner(problem, hd.offline.reverse_mode, hyper_optimizer=optax.adam(0.2), horizon=T)
    weights = hd.InnerState(start.params, optimizer.init(start.params))
    state, losses = built.init(jax.random.key(0), jnp.full(3, -4.0), weights), []
    for _ in range(20):
        state, info = built.step(state, (target[None], target[None]))
        losses.append(float(info.outer_loss[-1]))
    assert losses[-1] < 0.3 * losses[0]


def test_bad_arguments_are_named():
    make = optax.sgd
    with pytest.raises(ValueError, match=r"knots\['a'\] has shape \(\): expected \[k, ...\]"):
        hd.schedule(make, {"a": jnp.asarray(1.0)}, T)
    with pytest.raises(ValueError, match=r"knots has shape \(8,\).*1 <= k <= 7"):
        hd.curve(jnp.ones(8), 0, T)
    with pytest.raises(ValueError, match="make"):
        hd.schedule(0.1, jnp.ones(2), T)
    with pytest.raises(ValueError, match=r"make\(settings\).*expected an optax transformation"):
        hd.schedule(lambda at: at, jnp.ones(2), T).init(jnp.ones(3))
    optimizer = hd.schedule(make, jnp.ones(2), T)
    state = optimizer.init(jnp.ones(3))
    with pytest.raises(ValueError, match="hparams=None"):
        optimizer.update(jnp.ones(3), state)
    with pytest.raises(ValueError, match=r"knots has dtype int\d+: expected floating point"):
        hd.schedule(make, jnp.ones(2, int), T)
    with pytest.raises(ValueError, match="knots=None"):
        hd.curve(None, 0, T)
    with pytest.raises(ValueError, match=r"step has dtype float"):
        hd.curve(jnp.ones(2), 0.5, T)
    (problem, hparams, *rest), _ = case()
    with pytest.raises(ValueError, match=r"^of\(hparams\) raised KeyError: 'curve'"):
        hd.offline.reverse_mode(problem, {"decay": hparams["decay"]}, *rest)
    with pytest.raises(ValueError, match=r"^make\(settings\) raised KeyError: 'rate'"):
        hd.schedule(lambda at: optax.sgd(at["rate"]), {"a": jnp.ones(2)}, T).init(jnp.ones(3))
    with pytest.raises(ValueError, match=r"has shapes \(3,\): expected those of knots, \(2,\)"):
        optimizer.update(jnp.ones(3), state, hparams=jnp.ones(3))
