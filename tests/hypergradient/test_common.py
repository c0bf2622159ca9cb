"""Every estimator through one suite: trees, dtypes, vmap, and a hypergradient that is zero.

Without jit: test_settings.py.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import optax
import pytest

import hdistill as hd
from tests.problems import OFFLINE, ONLINE, assert_close, mlp, quadratic


def run_online(estimator, problem, hparams, weights, batches, outer_batch):
    """The hypergradient after the last of the steps."""
    first = jax.tree.map(lambda x: x[0], batches)
    state = estimator.init(weights, hparams, first)
    for t in range(jax.tree.leaves(batches)[0].shape[0]):
        batch = jax.tree.map(lambda x: x[t], batches)
        current = problem.update(weights, hparams, batch)
        transition = hd.Transition(weights, current, hparams, batch, outer_batch)
        result, state = estimator.step(state, transition, jax.random.key(t))
        weights = current
    return result


def method(module, name):
    """(problem, λ, w_0, batches, outer batch) -> Hypergradient."""
    if module == "offline":
        return OFFLINE[name]
    return lambda problem, *rest: run_online(ONLINE[name](problem), problem, *rest)


ALL = [("offline", name) for name in OFFLINE] + [("online", name) for name in ONLINE]


@pytest.mark.parametrize("module, name", ALL, ids=[" ".join(x) for x in ALL])
@pytest.mark.filterwarnings("ignore::hdistill.ZeroHypergradientWarning")
class TestSuite:
    """Each on an MLP whose weights, λ and batches are dicts, lists, tuples and NamedTuples."""

    def test_trees_and_dtypes(self, module, name):
        results = {}
        for dtype in (jnp.float32, jnp.float64):
            problem, *arguments = mlp("momentum", horizon=2, dtype=dtype)
            apply = jax.jit(functools.partial(method(module, name), problem))
            for term in (*apply(*arguments), results.setdefault(dtype, apply(*arguments).total)):
                assert jax.tree.structure(term) == jax.tree.structure(arguments[0])
                for leaf, like in zip(jax.tree.leaves(term), jax.tree.leaves(arguments[0])):
                    assert leaf.shape == like.shape and leaf.dtype == dtype
        assert_close(results[jnp.float32], results[jnp.float64], 2e-4)

    def test_vmap_over_tasks_is_a_loop_over_tasks(self, module, name):
        cases = [quadratic("momentum", horizon=2, seed=seed) for seed in (0, 10)]
        hparams = cases[0].hparams
        apply = functools.partial(method(module, name), cases[0].problem)
        tasks = [(case.weights, case.batches, case.outer_batch) for case in cases]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *tasks)
        mapped = jax.jit(jax.vmap(lambda w, d, v: apply(hparams, w, d, v)))(*stacked)
        single = jax.jit(apply)
        for i, task in enumerate(tasks):
            actual, expected = jax.tree.map(lambda x: x[i], mapped), single(hparams, *task)
            # Keys are shared between tasks here, so that D* of a task is the same in both.
            assert_close(actual, expected, 1e-9)

    def test_a_structurally_zero_hypergradient_is_reported(self, module, name):
        problem = hd.Problem(
            lambda w, h, d: w - 0.1 * (w - d.mean() * h["used"]),
            lambda w, h, d: jnp.sum(w**2),
        )
        hparams = {"unused": jnp.ones(2), "used": jnp.ones(())}
        arguments = problem, hparams, jnp.ones(3), jnp.ones((2, 4)), None
        if name == "nres":  # takes no derivative, so that no path is cut off
            with warnings.catch_warnings(action="error"):
                jax.eval_shape(functools.partial(method(module, name), problem), *arguments[1:])
            return
        with pytest.warns(hd.ZeroHypergradientWarning, match=r"hparams\['unused'\]") as caught:
            jax.eval_shape(functools.partial(method(module, name), problem), *arguments[1:])
        # g^FO is zero here, so that first-order reports both; the others do see λ through Φ.
        assert ("hparams['used']" in str(caught[0].message)) == (name == "first_order")


def test_hparams_and_weights_may_differ_in_precision():
    case = quadratic("sgd")

    def update(w, h, d):
        return w - 0.1 * (w - d.mean(0) * h.sum().astype(jnp.float64))

    problem = hd.Problem(update, lambda w, h, v: jnp.sum((w - v.mean(0)) ** 2))
    learner = hd.learner(
        problem,
        hd.online.one_step(problem),
        hyper_optimizer=optax.sgd(0.1),
        horizon=4,
        every=2,
    )
    state = learner.init(jax.random.key(0), jnp.ones(3, jnp.float32), case.weights.params)
    tasks = case.batches[:1], case.outer_batch[None]
    moved, info = jax.eval_shape(learner.pure_step, state, tasks)
    assert moved.hparams.dtype == info.first_order_norm.dtype == jnp.float32
    assert moved.weights.dtype == info.outer_loss.dtype == jnp.float64
