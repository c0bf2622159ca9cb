"""Exact methods against jax.grad of the unroll, the closed form, and finite differences."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hdistill as hd
from hdistill.hypergradient import backward as backward_module
from tests.problems import (
    CASES,
    LEARNING_RATE,
    OPTIMIZERS,
    assert_close,
    grad_of_unroll,
    quadratic,
    quadratic_constants,
)

EXACT = {
    "plain": hd.offline.reverse_mode,
    "checkpointed": functools.partial(hd.offline.reverse_mode, checkpoint=True),
    "whole window": functools.partial(hd.offline.reverse_mode, window=100),
    "forward": hd.offline.forward_mode,
}


@pytest.fixture(scope="module", params=[(c, o) for c in CASES for o in OPTIMIZERS], ids="-".join)
def case_and_oracle(request):
    name, optimizer = request.param
    case = CASES[name](optimizer)
    return case, jax.jit(lambda: grad_of_unroll(case))()


@pytest.mark.parametrize("method", ["plain", "checkpointed", "forward"])
def test_equals_the_gradient_of_the_unroll(case_and_oracle, method):
    case, (total, first_order) = case_and_oracle
    result = jax.jit(lambda: EXACT[method](*case))()
    assert_close(result.total, total, 1e-10)
    assert_close(result.first_order, first_order, 1e-10)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("window", [1, 3])
def test_window_is_the_gradient_through_the_last_steps(window, checkpoint):
    case = CASES["mlp"]("momentum", horizon=5)
    expected, _ = jax.jit(lambda: grad_of_unroll(case, last=window))()
    method = functools.partial(hd.offline.reverse_mode, window=window, checkpoint=checkpoint)
    assert_close(jax.jit(lambda: method(*case))().total, expected, 1e-10)


@pytest.mark.parametrize("method", EXACT)
def test_quadratic_in_closed_form(method):
    case = quadratic("sgd", horizon=7)
    hessian, coupling = quadratic_constants()
    shrink = np.eye(4) - LEARNING_RATE * hessian
    weights, response = np.asarray(case.weights.params), np.zeros((4, 3))
    for data in np.asarray(case.batches):
        force = coupling @ np.asarray(case.hparams) + data.mean(0)
        weights = shrink @ weights + LEARNING_RATE * force
        response = shrink @ response + LEARNING_RATE * coupling
    alpha = weights - np.asarray(case.outer_batch).mean(0)
    result = EXACT[method](*case)
    assert_close(result.second_order, alpha @ response, 1e-10)
    assert_close(result.first_order, case.hparams, 1e-14)


def test_finite_differences():
    problem, hparams, weights, batches, outer_batch = case = CASES["mlp"]("momentum")
    result = hd.offline.reverse_mode(*case).total
    flat, unravel = jax.flatten_util.ravel_pytree(hparams)
    value = jax.jit(
        lambda x: problem.outer_loss(
            hd.unroll(problem, unravel(x), weights, batches), unravel(x), outer_batch
        )
    )
    step = 1e-6
    differences = [
        (value(flat + step * e) - value(flat - step * e)) / (2 * step) for e in np.eye(flat.size)
    ]
    assert_close(result, differences, 1e-7)


@pytest.mark.parametrize("horizon", [1, 2, 3, 7, 10])
def test_checkpoints_at_every_kind_of_horizon(horizon):
    case = quadratic("momentum", horizon=horizon)
    expected, _ = jax.jit(lambda: grad_of_unroll(case))()
    assert_close(hd.offline.reverse_mode(*case, checkpoint=True).total, expected, 1e-10)


def test_a_function_of_the_step_serves_as_batches():
    problem, hparams, weights, batches, outer_batch = case = CASES["mlp"]("sgd")
    expected = hd.offline.reverse_mode(*case).total
    drawn = hd.offline.reverse_mode(
        problem,
        hparams,
        weights,
        lambda t: jax.tree.map(lambda x: x[t], batches),
        outer_batch,
        horizon=6,
        checkpoint=True,
    )
    assert_close(drawn.total, expected, 1e-12)


def test_info_has_the_last_weights_the_loss_and_the_products():
    problem, hparams, weights, batches, outer_batch = case = CASES["quadratic"]("momentum")
    final = hd.unroll(problem, hparams, weights, batches)
    products = {"first_order": 0, "one_step": 1, "drmad": 15, "reverse_mode": 15, "implicit": 6}
    for name, count in products.items():
        _, info = getattr(hd.offline, name)(*case, return_info=True)
        assert_close(info.weights.params, final.params, 1e-14)
        assert_close(info.outer_loss, problem.outer_loss(final, hparams, outer_batch), 1e-14)
        assert info.products == count
    assert hd.offline.forward_mode(*case, return_info=True)[1].products == 8 * 3
    assert hd.offline.reverse_mode(*case, window=3, return_info=True)[1].products == 5


def test_a_hyperparameter_that_takes_three_steps_to_act_is_no_false_alarm():
    # λ enters a delay line; nothing of it reaches the outer loss in fewer than four steps.
    problem = hd.Problem(
        lambda w, h, d: {"a": h, "b": w["a"], "c": w["b"], "d": w["c"]}, lambda w, h, d: w["d"] ** 2
    )
    weights = dict.fromkeys("abcd", jnp.zeros(()))
    result = hd.offline.reverse_mode(problem, jnp.array(5.0), weights, None, None, horizon=6)
    assert result.total == 10.0
    with pytest.warns(hd.ZeroHypergradientWarning, match="through 3 inner"):
        hd.offline.reverse_mode(problem, jnp.array(5.0), weights, None, None, horizon=3)


def test_numpy_arrays_and_python_numbers_will_do():
    problem = hd.Problem(
        lambda w, h, d: {"x": w["x"] - h["rate"] * w["x"], "n": w["n"] + 1},
        lambda w, h, d: jnp.sum(w["x"] ** 2),
    )
    hparams, weights = {"rate": 0.5}, {"x": np.ones(3), "n": 0}
    for method in EXACT.values():
        result = method(problem, hparams, weights, None, None, horizon=2)
        assert_close(result.total, 3 * 2 * 0.25 * -2 * 0.5, 1e-12)
    for name in ("drmad", "one_step", "implicit", "first_order"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", hd.ZeroHypergradientWarning)
            getattr(hd.offline, name)(problem, hparams, weights, None, None, horizon=2)


def test_the_oracle_catches_a_pass_that_forgets_momentum(monkeypatch):
    case = quadratic("momentum")
    total, _ = grad_of_unroll(case)
    honest = backward_module.inner_pullback

    def forgetful(problem, weights, hparams, batch, alpha):
        alpha, direct = honest(problem, weights, hparams, batch, alpha)
        return [alpha[0], jnp.zeros_like(alpha[1])], direct

    monkeypatch.setattr(backward_module, "inner_pullback", forgetful)
    with pytest.raises(AssertionError):
        assert_close(hd.offline.reverse_mode(*case).total, total, 1e-10)
