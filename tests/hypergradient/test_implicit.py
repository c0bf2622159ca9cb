"""Implicit differentiation against the closed form, the explicit sum, and other solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
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


@pytest.mark.parametrize("terms", [0, 1, 7])
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
    with pytest.raises(AssertionError):  # the sum of one term more is another
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


def fit_to(target):
    """½ Σ (head ∘ body - target)², body as it is given."""
    return lambda p: jnp.sum(0.5 * (p["head"] * p["body"] - target) ** 2)


def frozen_problems():
    """Φ that carries the body on, in several ways, with the same minimum over the head."""
    first = {"head": jnp.zeros(2), "body": jnp.array([1.0, 1.5])}
    train, validation = fit_to(jnp.array([1.0, 2.0])), fit_to(2.0)

    def inner_loss(p, h, _):
        return train(p) + jnp.sum(0.5 * jnp.exp(h) * p["head"] ** 2)

    def stopped(p, h, d):
        return inner_loss(p | {"body": jax.lax.stop_gradient(p["body"])}, h, d)

    def masked(p, h, d):  # entries of one leaf, by a mask, and two entries that nothing uses
        return inner_loss({"head": p[:2], "body": jax.lax.stop_gradient(p[2:4])}, h, d)

    def pair(loss, optimizer, params, view=lambda p: p):
        problem = hd.from_losses(loss, lambda p, h, d: validation(view(p)), optimizer)
        return problem, hd.InnerState(params, optimizer.init(params))

    freeze = optax.masked(optax.set_to_zero(), {"head": False, "body": True})
    flat = jnp.concatenate([first["head"], first["body"], jnp.ones(2)])
    rate = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    return {
        "masked optimizer": pair(inner_loss, optax.chain(optax.sgd(0.1), freeze), first),
        "stopped gradient": pair(stopped, optax.sgd(0.1), first),
        "stopped, with momentum": pair(stopped, optax.sgd(0.05, momentum=0.5), first),
        "rate in the state": pair(stopped, rate, first),
        "entries of one leaf": pair(
            masked, optax.sgd(0.1), flat, lambda p: {"head": p[:2], "body": p[2:4]}
        ),
    }


@pytest.mark.parametrize("name", frozen_problems())
@pytest.mark.parametrize("solver, terms", [("exact", 0), ("cg", 60), ("neumann", 400)])
def test_weights_that_phi_carries_unchanged_are_left_out(name, solver, terms):
    problem, weights = frozen_problems()[name]
    body, hparams = jnp.array([1.0, 1.5]), jnp.array([-0.5, 0.3])

    def at_the_minimum(h):
        head = jnp.array([1.0, 2.0]) * body / (body**2 + jnp.exp(h))
        return fit_to(2.0)({"head": head, "body": body})

    result, info = hd.offline.implicit(
        problem,
        hparams,
        weights,
        None,
        None,
        horizon=400,
        solver=solver,
        terms=terms,
        return_info=True,
    )
    assert_close(result.total, jax.grad(at_the_minimum)(hparams), 1e-6)
    assert info.finite


@pytest.mark.parametrize("seed", range(2))
def test_a_singular_system_off_the_axes_is_not_finite(seed):
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(seed), (3, 3), jnp.float32))[0]
    matrix = (basis * jnp.array([[1.0, 0.5, 0.3]], jnp.float32)) @ basis.T
    problem = hd.Problem(
        lambda w, h, d: matrix @ w + basis[:, 1] * h[None],
        lambda w, h, d: jnp.sum(w * jnp.arange(1.0, 4.0, dtype=jnp.float32)),
    )
    arguments = problem, jnp.float32(1), jnp.ones(3, jnp.float32), None, None
    _, info = hd.offline.implicit(*arguments, horizon=3, solver="exact", return_info=True)
    assert not info.finite


def test_a_response_without_limit_is_not_finite():
    # The second weight walks λ a step: I - A is singular where λ reaches, and nothing is right.
    problem = hd.Problem(
        lambda w, h, d: jnp.stack([0.5 * w[0] + h, w[1] + h]), lambda w, h, d: jnp.sum(w)
    )
    _, info = hd.offline.implicit(
        problem, jnp.ones(()), jnp.ones(2), None, None, horizon=3, solver="exact", return_info=True
    )
    assert not info.finite
