"""Diagnosis: planted faults are told, right problems raise no alarm. bench/diagnosis has 40."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hdistill as hd
from experiments.bench.diagnosis import FAULTS, RIGHT, diagnose, is_told
from tests.problems import quadratic


@pytest.mark.parametrize(
    "name",
    [
        "one entry of λ detached",
        "√v at 0",
        "batches from a generator",
        "chaos",
    ],
)
def test_a_fault_is_told(name):
    made = FAULTS[name]()
    assert is_told(made, diagnose(made))


@pytest.mark.parametrize(
    "name", ["adam with eps_root", "noise by the step's key", "float32 inside"]
)
def test_a_right_problem_raises_no_alarm(name):
    made = RIGHT[name]()
    report = diagnose(made)
    assert is_told(made, report) and 1.9 < report.slope < 2.1
    assert not is_told(made._replace(word="derivative"), report)


def test_what_is_measured_on_a_quadratic():
    case = quadratic("sgd", horizon=20)
    report = hd.diagnose(*case, key=jax.random.key(0))
    assert not report.alarms and report.precision > 1 - 1e-12 and report.repeats == 0
    assert report.smoothness == 1 and report.growth.shape == (20,)
    exact = hd.offline.reverse_mode(*case).total
    one, info = hd.offline.one_step(*case, return_info=True)
    cosine = jnp.vdot(one.total, exact) / jnp.linalg.norm(one.total) / jnp.linalg.norm(exact)
    np.testing.assert_allclose(report.cheaper["one_step"].cosine, cosine, rtol=1e-10)
    assert report.cheaper["one_step"].products == info.products == 1
    assert report.cheaper["last 2 steps"].products == 3
    assert "slope of Taylor's remainder" in repr(report) and repr(report).count("\n") < 20
    best = min((m.products, name) for name, m in report.cheaper.items() if m.cosine >= 0.95)
    assert best[1] in report.notes[0]
    figure = report.plot()
    assert len(figure.axes) == 2


def test_half_precision_inside_is_held_against_a_problem_without():
    """Weights in float32, products in bfloat16: Φ's own casts stay in float64, so `precise`."""

    def made(dtype):
        def predict(w, x):
            return jnp.tanh(x.astype(dtype) @ w.astype(dtype)).astype(w.dtype)

        def update(w, h, d):
            def loss(w):
                return jnp.mean((predict(w, d[0]) - d[1]) ** 2) + jnp.exp(h) @ w**2

            return w - 1.7 * jax.grad(loss)(w)

        return hd.Problem(update, lambda w, h, d: jnp.mean((predict(w, d[0]) - d[1]) ** 2))

    rng = np.random.default_rng(0)
    x, w, h = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((12, 8, 4), (4,), (4,)))
    batches, outer = (x, jnp.sin(x.sum(-1))), (x[0], jnp.cos(x[0].sum(-1)))
    case = made(jnp.bfloat16), h - 4, w, batches, outer
    precise = made(jnp.float64)
    held = hd.diagnose(*case, key=jax.random.key(0), cheaper={}, precise=precise)
    exact = hd.offline.reverse_mode(precise, *case[1:]).total
    g = hd.offline.reverse_mode(*case).total
    cosine = jnp.vdot(g, exact) / jnp.linalg.norm(g) / jnp.linalg.norm(exact)
    np.testing.assert_allclose(held.precision, cosine, rtol=1e-4)
    assert held.precision < 0.99
    assert any("rounding" in alarm for alarm in held.alarms)


def test_bad_arguments_are_named():
    case = quadratic("sgd", horizon=2)
    with pytest.raises(ValueError, match="key"):
        hd.diagnose(*case, key=0)
    for method in ("reverse_mode", hd.online.one_step):
        with pytest.raises(ValueError, match="method="):
            hd.diagnose(*case, key=jax.random.key(0), method=method)
    with pytest.raises(ValueError, match="step"):
        hd.diagnose(*case, key=jax.random.key(0), step=-1.0)
    with pytest.raises(ValueError, match=r"outside jax\.jit"):
        jax.jit(lambda h: hd.diagnose(case.problem, h, *case[2:], key=jax.random.key(0)))(
            case.hparams
        )
