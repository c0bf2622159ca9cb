"""hd.compare against cosines worked out by hand on a quadratic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hdistill as hd
from tests.problems import LEARNING_RATE, quadratic, quadratic_constants

HORIZON = 5


def by_hand():
    """(cosine, ratio, g^SO cosine, g^SO ratio) of one-step to exact, from matrices alone, [T].

    Φ(w) = w - η(Hw - Cλ - d): A = I - ηH, B = ηC, and g_t^SO = Σ_k α_t A^k B, of which one-step
    keeps k = 0.
    """
    case = quadratic("sgd", horizon=HORIZON)
    hessian, coupling = quadratic_constants()
    w, h = np.asarray(case.weights.params), np.asarray(case.hparams)
    jacobian = np.eye(4) - LEARNING_RATE * hessian
    rows = []
    for t, batch in enumerate(np.asarray(case.batches), 1):
        w = jacobian @ w + LEARNING_RATE * (coupling @ h + batch.mean(0))
        alpha = w - np.asarray(case.outer_batch).mean(0)
        powers = [np.linalg.matrix_power(jacobian, k) for k in range(t)]
        exact = sum(alpha @ power for power in powers) @ (LEARNING_RATE * coupling)
        short = alpha @ (LEARNING_RATE * coupling)
        row = []
        for a, b in ((h + short, h + exact), (short, exact)):
            norms = np.linalg.norm(a), np.linalg.norm(b)
            row += [a @ b / np.prod(norms), norms[0] / norms[1]]
        rows.append(row)
    return np.array(rows).T


@functools.cache
def compared():
    case = quadratic("sgd", horizon=HORIZON)
    methods = {
        "one-step": hd.online.one_step(case.problem),
        "hyperdistill": hd.online.hyperdistill(case.problem, gamma=0.0),
        "forward": hd.online.forward_mode(case.problem),
        "first-order": hd.online.first_order(case.problem),
    }
    return hd.compare(case.problem, methods, *case[1:])


@pytest.mark.filterwarnings("ignore::hdistill.ZeroHypergradientWarning")
def test_cosines_and_ratios_are_those_worked_out_by_hand():
    results = compared()
    np.testing.assert_allclose(results["one-step"][:4], by_hand(), rtol=1e-12)
    assert np.abs(by_hand()[1] - 1).max() > 0.01  # they are not all 1
    # γ = 0: one-step's direction, times one θ.
    np.testing.assert_allclose(
        results["hyperdistill"].second_order_cosine, by_hand()[2], rtol=1e-12
    )
    np.testing.assert_allclose(
        results["hyperdistill"].second_order_ratio, results["hyperdistill"].theta * by_hand()[3]
    )
    assert results["hyperdistill"].theta > 1
    for name in ("forward", "exact"):
        np.testing.assert_allclose(results[name][:4], 1, rtol=1e-12)
    assert np.isnan(results["first-order"].second_order_cosine).all()
    assert (results["first-order"].second_order_ratio == 0).all()


@pytest.mark.filterwarnings("ignore::hdistill.ZeroHypergradientWarning")
def test_costs():
    results = compared()
    products = {name: result.products for name, result in results.items()}
    assert products == {
        "one-step": 5,
        "hyperdistill": 5 + 14,
        "forward": 15,
        "first-order": 0,
        "exact": 1 + 3 + 5 + 7 + 9,
    }
    assert list(results) == list(products)  # in the order asked for, exact last
    assert all(result.seconds > 0 for result in results.values())
    assert results["exact"].memory > results["one-step"].memory >= 0
    assert np.isnan(results["one-step"].theta)


def test_bad_methods_are_named():
    case = quadratic("sgd", horizon=2)
    with pytest.raises(ValueError, match=r"methods\['drmad'\].*expected hd.online"):
        hd.compare(case.problem, {"drmad": hd.offline.drmad}, *case[1:])
    with pytest.raises(ValueError, match=r"methods\['exact'\].*another name"):
        hd.compare(case.problem, {"exact": hd.online.one_step(case.problem)}, *case[1:])
    with pytest.raises(ValueError, match="expected a dict"):
        hd.compare(case.problem, [hd.online.one_step(case.problem)], *case[1:])
    with pytest.raises(ValueError, match="key=0: expected one typed key"):
        hd.compare(case.problem, {}, *case[1:], key=0)


def test_batches_may_be_a_function():
    case = quadratic("sgd", horizon=HORIZON)
    methods = {"one-step": hd.online.one_step(case.problem)}
    results = hd.compare(
        case.problem,
        methods,
        case.hparams,
        case.weights,
        lambda t: jax.tree.map(lambda x: x[t], case.batches),
        case.outer_batch,
        horizon=HORIZON,
        key=jax.random.key(1),
    )
    np.testing.assert_allclose(results["one-step"][:4], by_hand(), rtol=1e-12)
    assert jnp.isfinite(results["exact"].seconds)
