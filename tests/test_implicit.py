"""Implicit differentiation against the closed form, the explicit sum, and other solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hdistill as hd
from tests.problems import LEARNING_RATE, assert_close, mlp, quadratic, quadratic_constants

HORIZON = 1500


def converged(optimizer):
    """A quadratic whose batches are all the same, run until w is a fixed point."""
    case = quadratic(optimizer, horizon=1)
    return case._replace(batches=jnp.repeat(case.batches, HORIZON, axis=0))


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize(
    "solver, terms", [("neumann", 1200), ("cg", 40), ("exact", 0), ("identity", 0)]
)
def test_solvers_meet_the_closed_form_at_convergence(optimizer, solver, terms):
    case = converged(optimizer)
    hessian, coupling = quadratic_constants()
    best = np.linalg.solve(hessian, coupling @ case.hparams + np.asarray(case.batches[0]).mean(0))
    alpha = best - np.asarray(case.outer_batch).mean(0)
    expected = alpha @ np.linalg.solve(hessian, coupling)
    if solver == "identity":  # (I - A)⁻¹ taken for I: one step's share
        expected = LEARNING_RATE * alpha @ coupling
    result = jax.jit(lambda: hd.offline.implicit(*case, solver=solver, terms=terms))()
    assert_close(result.second_order, expected, 1e-8)
    assert_close(result.first_order, case.hparams, 1e-14)


@pytest.mark.parametrize("terms", [0, 1, 2, 7])
def test_neumann_is_the_explicit_matrix_sum(terms):
    problem, hparams, weights, batches, outer_batch = case = quadratic("momentum")
    previous = hd.unroll(problem, hparams, weights, batches[:-1])
    last = batches[-1]
    final = problem.update(previous, hparams, last)

    def flat(tree):
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])

    def phi(vector, h):
        state = jax.tree.unflatten(jax.tree.structure(weights), [vector[:4], vector[4:]])
        return flat(problem.update(state, h, last))

    a, b = jax.jacfwd(phi, (0, 1))(flat(previous), hparams)
    alpha = flat(jax.grad(problem.outer_loss)(final, hparams, outer_batch))
    expected = alpha @ sum(np.linalg.matrix_power(a, k) for k in range(terms + 1)) @ b
    result = hd.offline.implicit(*case, solver="neumann", terms=terms)
    assert_close(result.second_order, expected, 1e-12)
    with pytest.raises(AssertionError):  # the sum of one term more is told apart
        more = hd.offline.implicit(*case, solver="neumann", terms=terms + 1)
        assert_close(more.second_order, expected, 1e-12)


def test_identity_is_one_step():
    case = quadratic("adam")
    assert_close(
        hd.offline.implicit(*case, solver="identity").total, hd.offline.one_step(*case).total, 1e-15
    )


def test_cg_and_exact_agree_away_from_convergence():
    case = mlp("momentum")
    exact = hd.offline.implicit(*case, solver="exact").second_order
    by_cg = hd.offline.implicit(*case, solver="cg", terms=400).second_order
    assert_close(by_cg, exact, 1e-6)
