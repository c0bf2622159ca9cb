"""The problem of several tasks has the mean of their hypergradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from tests.problems import assert_close

STEPS = 4


def inner_loss(w, lam, batch):
    return 0.5 * jnp.sum((w * jnp.cos(lam) - batch) ** 2) + 0.1 * jnp.sum(jnp.sin(w) * lam)


def outer_loss(w, lam, batch):
    return 0.5 * jnp.sum((w - batch) ** 2) + 0.05 * jnp.sum(lam**2)


def make(surrogate=None):
    """(problem, λ, w_0, inner batches [T, tasks, 3], outer batches [tasks, 3])."""
    optimizer = optax.adam(0.1)
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
