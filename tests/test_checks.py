"""Bad input: a ValueError that names the argument, its value and what was expected."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from tests.problems import OFFLINE, ONLINE, quadratic


def raises(*parts):
    """A ValueError whose message has all the parts, in order."""
    return pytest.raises(ValueError, match="(?s)" + ".*".join(parts))


def build(case, estimator=None, **arguments):
    arguments = {"hyper_optimizer": optax.sgd(0.1), "horizon": 4} | arguments
    return hd.learner(case.problem, estimator or hd.online.one_step(case.problem), **arguments)


def tasks_of(case, count=4):
    return tuple(jnp.stack([x] * count) for x in (case.batches[0], case.outer_batch))


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan"), "0.9", True])
def test_gamma(gamma):
    case = quadratic()
    for call in (hd.online.hyperdistill, hd.online.greedy):
        with raises("gamma=", r"\[0, 1\]"):
            call(case.problem, gamma=gamma)
    with raises("gamma="):
        hd.fit_size(*case, jax.random.key(0), gamma=gamma)


@pytest.mark.parametrize("size", [-1.0, float("nan"), float("inf"), "best", None])
def test_size(size):
    with raises("size=", "'fit'"):
        hd.online.hyperdistill(quadratic().problem, size=size)


@pytest.mark.parametrize("value", [0, -3, 1.5, True])
def test_counts(value):
    case = quadratic()
    for name in ("horizon", "every", "last", "fit_period"):
        with raises(f"{name}={value}", ">= 1"):
            build(case, **{name: value})
    with raises(f"window={value}", ">= 1"):
        hd.offline.reverse_mode(*case, window=value)
    with raises(f"window={value}", ">= 1"):
        hd.online.reverse_mode(case.problem, window=value)
    if value is not True:
        with raises(f"horizon={value}", ">= 1"):
            hd.unroll(*case[:3], lambda t: case.batches[t], horizon=value)


def test_solver_and_terms():
    case = quadratic()
    with raises("solver='lu'", "neumann"):
        hd.offline.implicit(*case, solver="lu")
    with raises("terms=-1", ">= 0"):
        hd.online.implicit(case.problem, terms=-1)


def test_horizon_of_the_batches():
    problem, hparams, weights, batches, outer_batch = case = quadratic(horizon=8)
    with raises("horizon=5", "8"):
        hd.offline.drmad(*case, horizon=5)
    with raises("horizon=None", "horizon=T"):
        hd.offline.drmad(problem, hparams, weights, lambda t: batches[t], outer_batch)
    with raises("batches", "leading axis", "8", "7"):
        hd.unroll(problem, hparams, weights, {"x": batches, "y": batches[:7]})


def test_estimator_of_the_learner():
    with raises("estimator='hyperdistill'", "hd.online"):
        build(quadratic(), "hyperdistill")
    with raises("estimator=", "online_one_step", "hd.online.NAME"):
        build(quadratic(), hd.online.one_step)
    with raises("initialization=", "reptile"):
        build(quadratic(), initialization=hd.reptile)
    with raises("hyper_optimizer=0.1", "optax"):
        build(quadratic(), hyper_optimizer=0.1)
    with raises("every=3, last=1", "never move", "horizon=4"):
        build(quadratic(), every=3, last=1)
    with raises("last=2", "offline"):
        build(quadratic(), hd.offline.drmad, last=2)
    with raises("every=2", "one_step", "without that option"):
        build(quadratic(), hd.offline.one_step, every=2)
    with raises("every=5", "at most horizon=4"):
        build(quadratic(), hd.offline.drmad, every=5)


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_methods_check_their_problem(name):
    method = OFFLINE[name]
    case = quadratic(horizon=3)
    problem = case.problem
    with raises(r"hparams\['count'\]", "int64", "floating point"):
        method(problem, {"count": jnp.arange(3)}, *case[2:])

    def replace(update=problem.update, outer_loss=problem.outer_loss):
        return hd.Problem(update, outer_loss), *case[1:]

    with raises("problem.update", "structure"):
        method(*replace(update=lambda w, h, d: w.params))
    with raises("problem.update", r"shape \(4, 1\)", r"expected shape \(4,\)"):
        method(*replace(update=lambda w, h, d: w._replace(params=w.params[:, None])))
    with raises("problem.update", "float32", "float64"):
        method(*replace(update=lambda w, h, d: w._replace(params=w.params.astype(jnp.float32))))
    with raises("problem.outer_loss", "scalar"):
        method(*replace(outer_loss=lambda w, h, d: w.params + h.sum()))


@pytest.mark.parametrize("name", ONLINE)
def test_online_estimators_check_every_transition(name):
    problem, hparams, weights, batches, outer_batch = quadratic(horizon=3)
    estimator = ONLINE[name](problem)
    state = estimator.init(weights, hparams, batches[0])
    good = hd.Transition(weights, weights, hparams, batches[0], outer_batch)
    with raises("hparams", "int64", "floating point"):
        estimator.init(weights, jnp.arange(3), batches[0])
    for step in (estimator.step, estimator.observe):
        with raises("transition.hparams", r"\(2,\)", r"\(3,\)"):
            step(state, good._replace(hparams=hparams[:2]), jax.random.key(0))
        with raises("transition.previous", "structure"):
            step(state, good._replace(previous=weights.params), jax.random.key(0))
        with raises("transition.current", r"\(5,\)", r"\(4,\)"):
            wrong = weights._replace(params=jnp.zeros(5))
            step(state, good._replace(current=wrong), jax.random.key(0))
    bad = problem._replace(outer_loss=lambda w, h, d: w.params)
    with raises("problem.outer_loss", "scalar"):
        ONLINE[name](bad).step(state, good, jax.random.key(0))


@pytest.mark.parametrize("name", ["hyperdistill", "one_step", "greedy"])
def test_the_learner_checks_its_problem(name):
    case = quadratic()
    problem = case.problem

    def step(update=problem.update, outer_loss=problem.outer_loss):
        bad = hd.Problem(update, outer_loss)
        built = build(case._replace(problem=bad), getattr(hd.online, name)(bad))
        built.step(built.init(jax.random.key(0), case.hparams, case.weights), tasks_of(case))

    with raises("problem.update", r"shape \(4, 1\)", r"expected shape \(4,\)"):
        step(update=lambda w, h, d: w._replace(params=w.params[:, None]))
    with raises("problem.outer_loss", "scalar"):
        step(outer_loss=lambda w, h, d: w.params + h.sum())


def test_unroll_checks_its_update():
    case = quadratic()
    wrong = case.problem._replace(update=lambda w, h, d: w._replace(params=w.params[:2]))
    with raises("problem.update", r"\(2,\)", r"\(4,\)"):
        hd.unroll(wrong, *case[1:4])
    with raises("weights", "expected an InnerState"):
        hd.unroll(case.problem, case.hparams, case.weights.params, case.batches)


def test_examples_to_mix():
    problem, hparams, weights, *_ = quadratic()
    estimator = hd.online.hyperdistill(problem)
    with raises("batch", "leading axis", r"\['x'\]", "6", r"\['y'\]", "5"):
        estimator.init(weights, hparams, {"x": jnp.zeros((6, 4)), "y": jnp.zeros(5)})
    with raises("batch", "leading axis", "None"):
        estimator.init(weights, hparams, {"x": jnp.zeros((6, 4)), "step": jnp.zeros(())})


def test_learner_checks_its_state_and_tasks():
    case = quadratic()
    built = build(case)
    with raises("hparams", "int64"):
        built.init(jax.random.key(0), np.arange(3), case.weights)
    state = built.init(jax.random.key(0), case.hparams, case.weights)
    with raises("state.hparams", r"\(2,\)"):
        built.step(state._replace(hparams=case.hparams[:2]), tasks_of(case))
    with raises("state.weights", "structure"):
        built.step(state._replace(weights=case.weights.params), tasks_of(case))
    inner, outer = tasks_of(case)
    with raises("tasks", "leading axis", "4", "3"):
        built.step(state, (inner, outer[:3]))


def test_the_longest_horizon_costs_nothing_to_build():
    case = quadratic()
    tracemalloc.start()
    built = build(case, horizon=2**31 - 1, every=2, last=2**30)
    built.init(jax.random.key(0), case.hparams, case.weights)
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()


def test_meta_batch_that_the_devices_do_not_divide():
    case = quadratic()
    built = build(case)
    state = built.init(jax.random.key(0), case.hparams, case.weights)
    with raises("tasks", "6", "4 devices", "'tasks' axis"):
        hd.pmap_step(built)(state, tasks_of(case, 6))


@pytest.mark.parametrize("key", [0, np.zeros(2, np.uint32), "seed"], ids=["int", "raw", "str"])
def test_key(key):
    case = quadratic()
    with raises("key=", "typed key"):
        build(case).init(key, case.hparams, case.weights)


def test_optimizers_and_rates_that_are_none():
    with raises("optimizer=0.1", "optax transformation"):
        hd.from_losses(lambda *_: 0.0, lambda *_: 0.0, 0.1)
    for build_rule, name in ((hd.reptile, "learning_rate"), (hd.fomaml, "optimizer")):
        for value in ("a", None, 0.0, True):
            with raises(f"{name}={value!r}", "finite number > 0"):
                build_rule(value)
