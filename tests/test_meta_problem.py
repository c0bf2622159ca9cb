"""The problem of several tasks has the mean of their hypergradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill.learners.plan import make_plan
from tests.problems import assert_close, quadratic

STEPS = 4


def inner_loss(w, lam, batch):
    return 0.5 * jnp.sum((w * jnp.cos(lam) - batch) ** 2) + 0.1 * jnp.sum(jnp.sin(w) * lam)


def outer_loss(w, lam, batch):
    return 0.5 * jnp.sum((w - batch) ** 2) + 0.05 * jnp.sum(lam**2)


def make(surrogate=None, eps=1e-8):
    """(problem, λ, w_0, inner batches [T, tasks, 3], outer batches [tasks, 3])."""
    optimizer = optax.adam(0.1, eps=eps)
    problem = hd.from_losses(inner_loss, outer_loss, optimizer, surrogate)
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=3))
    batches = jnp.asarray(rng.normal(size=(STEPS, 5, 3)))
    weights = hd.InnerState(params, optimizer.init(params))
    return problem, jnp.array([0.3, -0.2, 0.5]), weights, batches, batches[0] + 0.5


def together(method, problem, lam, weights, batches, outer_batch):
    starts = jax.tree.map(lambda x: jnp.broadcast_to(x, (5, *x.shape)), weights)
    return method(hd.meta_problem(problem), lam, starts, batches, outer_batch)


def test_it_is_the_gradient_of_the_mean_loss():
    problem, lam, weights, batches, outer_batch = make()

    def mean(lam):
        losses = 0.0
        for i in range(5):
            final = hd.unroll(problem, lam, weights, batches[:, i])
            losses += problem.outer_loss(final, lam, outer_batch[i]) / 5
        return losses

    g = together(hd.offline.reverse_mode, problem, lam, weights, batches, outer_batch)
    assert_close(g.total, jax.grad(mean)(lam), 1e-12)


@pytest.mark.parametrize("surrogate", [None, optax.sgd(0.1)])
@pytest.mark.parametrize(
    "method",
    [hd.offline.first_order, hd.offline.one_step, functools.partial(hd.offline.drmad, anchors=2)],
)
def test_it_is_the_mean_of_the_tasks(method, surrogate):
    problem, lam, weights, batches, outer_batch = make(surrogate)
    g = together(method, problem, lam, weights, batches, outer_batch)
    each = [method(problem, lam, weights, batches[:, i], outer_batch[i]).total for i in range(5)]
    assert_close(g.total, sum(each) / 5, 1e-12)


LINEAR = {
    "one_step": hd.online.one_step,
    "neumann": functools.partial(hd.online.implicit, terms=2),
    "hyperdistill": functools.partial(hd.online.hyperdistill, gamma=0.7, mixing="apart"),
}


@pytest.mark.parametrize(
    "name, surrogate",
    [("one_step", None), ("neumann", optax.sgd(0.1)), ("hyperdistill", None)],
)
def test_online_tasks_side_by_side_have_the_mean_of_their_hypergradients(name, surrogate):
    # With Adam's own eps its first step hardly depends on λ: rounding of what cancels.
    problem, lam, weights, batches, outer_batch = make(surrogate, eps=0.1)
    estimator = LINEAR[name](problem)
    update, step = map(jax.jit, (problem.update, estimator.step))
    states = [estimator.init(weights, lam, batches[0, i]) for i in range(5)]
    if name == "hyperdistill":
        states = [state._replace(theta=jnp.array(0.3)) for state in states]
    starts = [weights] * 5
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    for t in range(2):
        ends = [update(starts[i], lam, batches[t, i]) for i in range(5)]
        keys = jax.random.split(jax.random.key(t), 5)
        steps = [
            hd.Transition(starts[i], ends[i], lam, batches[t, i], outer_batch[i]) for i in range(5)
        ]
        each = [step(states[i], steps[i], keys[i]) for i in range(5)]
        several = jax.tree.map(lambda *x: jnp.stack(x), *steps)._replace(hparams=lam)
        mean, stacked = step(stacked, several, keys)
        for part in ("first_order", "second_order"):
            assert_close(getattr(mean, part), sum(getattr(g, part) for g, _ in each) / 5, 1e-12)
        starts, states = ends, [state for _, state in each]
    assert_close(stacked, jax.tree.map(lambda *x: jnp.stack(x), *states), 1e-12)


def takes_together(problem, estimator):
    """Tells whether a learner takes the tasks of a meta-batch together."""
    arguments = {"problem": problem, "estimator": estimator, "hyper_optimizer": optax.sgd(0.1)}
    arguments |= {"horizon": 3, "every": None, "fit_period": None, "nonfinite": "keep"}
    arguments |= {"sample_inner": lambda key, task: task[0]}
    return make_plan(**arguments, sample_outer=lambda key, task: task[1]).shares_hparams


def test_a_step_that_was_replaced_takes_the_tasks_one_by_one():
    problem = make()[0]
    estimator = hd.online.one_step(problem)
    assert takes_together(problem, estimator)
    assert not takes_together(
        problem, estimator._replace(step=lambda *given: estimator.step(*given))
    )


def test_what_is_not_linear_has_no_mean_in_one_pass():
    problem = make()[0]
    for estimator in (
        hd.online.robust_hyperdistill(problem),
        hd.online.hyperdistill(problem, size=1.0),
        hd.online.implicit(problem, solver="cg"),
    ):
        assert not takes_together(problem, estimator)


def test_a_wrapper_and_a_lambda_take_the_tasks_together_where_they_say_so():
    partial = functools.partial(functools.partial(hd.offline.drmad, anchors=2))

    @functools.wraps(hd.offline.reverse_mode)
    def wrapped(*arguments, **options):
        return hd.offline.reverse_mode(*arguments, **options)

    def bare(*arguments, **options):
        return hd.offline.reverse_mode(*arguments, **options)

    def marked(*arguments, **options):
        return hd.offline.reverse_mode(*arguments, **options)

    marked.shares_hparams = True
    problem, hparams, weights, batches, outer_batch = quadratic("sgd", horizon=1)
    tasks = tuple(jnp.stack([x, 2 * x]) for x in (batches[0], outer_batch))
    moved = []
    for method, marks in ((partial, True), (wrapped, True), (bare, False), (marked, True)):
        assert takes_together(problem, method) is marks
        learner = hd.learner(problem, method, hyper_optimizer=optax.sgd(0.1), horizon=3)
        state, _ = learner.step(learner.init(jax.random.key(0), hparams, weights), tasks)
        moved.append(state.hparams)
    assert_close(moved[1], moved[2], 1e-12)
    assert_close(moved[3], moved[2], 1e-12)
