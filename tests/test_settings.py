"""Every estimator and both learners under JAX's strict settings, all at once, and without jit."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from tests.problems import OFFLINE, ONLINE, quadratic

# Rank promotion is "raise" in every test (conftest.py). SGD, for optax.adam does not itself run
# under strict promotion.
SETTINGS = {
    "strict": [
        lambda: jax.numpy_dtype_promotion("strict"),
        lambda: jax.debug_key_reuse(True),
        lambda: jax.debug_nans(True),
    ],
    "without jit": [lambda: jax.disable_jit(), lambda: jax.debug_nans(True)],
}


@pytest.fixture(params=SETTINGS)
def strictly(request):
    with contextlib.ExitStack() as stack:
        for setting in SETTINGS[request.param]:
            stack.enter_context(setting())
        yield request.param


def case_and_tasks():
    case = quadratic("momentum", horizon=2, dtype=jnp.float32)
    return case, tuple(jnp.stack([x] * 2) for x in (case.batches[0], case.outer_batch))


# Without jit each takes seconds: those whose programs differ most.
METHODS = [(name, "strict") for name in OFFLINE]
METHODS += [(name, "without jit") for name in ("reverse_mode", "implicit cg")]


@pytest.mark.parametrize("name, strictly", METHODS, indirect=["strictly"])
def test_offline(name, strictly):
    case, _ = case_and_tasks()
    _, info = OFFLINE[name](*case, return_info=True)
    assert info.finite


def run_learner(case, tasks, method, **options):
    built = hd.learner(
        case.problem, method, hyper_optimizer=optax.sgd(0.1, momentum=0.9), horizon=2, **options
    )
    state = built.init(jax.random.key(0), case.hparams, case.weights)
    for _ in range(steps()):
        state, info = built.step(state, tasks)
    return info


def steps() -> int:
    """Of a learner: the second's state is the first's result; without jit one takes seconds."""
    return 1 if jax.config.jax_disable_jit else 2


LEARNERS = [(name, "strict") for name in ONLINE] + [("robust_hyperdistill", "without jit")]


@pytest.mark.parametrize("name, strictly", LEARNERS, indirect=["strictly"])
def test_learner(name, strictly):
    case, tasks = case_and_tasks()
    method = ONLINE[name](case.problem)
    info = run_learner(case, tasks, method, every=2, initialization=hd.fomaml(0.1))
    np.testing.assert_array_equal(info.moved, [False, True])


def test_learner_of_an_offline_method(strictly):
    info = run_learner(*case_and_tasks(), hd.offline.drmad, initialization=hd.reptile(0.5))
    assert info.finite.all() and info.moved.all()


STREAMS = [("hyperdistill", "strict"), ("one_step", "without jit")]


@pytest.mark.parametrize("name, strictly", STREAMS, indirect=["strictly"])
def test_stream(name, strictly):
    case, _ = case_and_tasks()
    estimator, task = ONLINE[name](case.problem), (case.batches[0], case.outer_batch)
    stream = hd.stream(case.problem, estimator, hyper_optimizer=optax.sgd(0.1), steps=2)
    state = stream.init(jax.random.key(0), case.hparams, case.weights, task)
    for _ in range(steps()):
        state, info = stream.step(state, task)
    assert info.moved.all()


def test_compare_and_fit_size(strictly):
    case, _ = case_and_tasks()
    results = hd.compare(case.problem, {"greedy": ONLINE["greedy"](case.problem)}, *case[1:])
    assert np.isfinite(results["greedy"].cosine).all()
    theta, _ = hd.fit_size(*case, jax.random.key(0))
    assert theta > 0
