"""Forward mode along random directions: unbiased, with the variance that its docstring says."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hdistill as hd
from hdistill.hypergradient import forward_mode
from tests.hypergradient.test_common import run_online
from tests.problems import CASES, assert_close, grad_of_unroll, quadratic


def scalars(hparams) -> int:
    return sum(x.size for x in jax.tree.leaves(hparams))


def given(monkeypatch, directions):
    """Has it take these directions, [k, number of λ]."""
    monkeypatch.setattr(forward_mode, "_draw", lambda key, k, hparams: jnp.asarray(directions))


@pytest.mark.parametrize(
    "name, optimizer, online", [("quadratic", "momentum", False), ("mlp", "adam", True)]
)
def test_over_all_signs_the_mean_is_exact(name, optimizer, online, monkeypatch):
    case = CASES[name](optimizer, horizon=4)
    signs = list(itertools.product((-1.0, 1.0), repeat=scalars(case.hparams)))
    given(monkeypatch, signs)
    exact, first_order = jax.jit(lambda: grad_of_unroll(case))()
    if online:
        g = run_online(hd.online.forward_mode(case.problem, directions=len(signs)), *case)
    else:
        g = hd.offline.forward_mode(*case, directions=len(signs), key=jax.random.key(0))
    assert_close(g.total, exact, 1e-10)
    assert_close(g.first_order, first_order, 1e-12)
    given(monkeypatch, signs[:3])  # not over all
    some = hd.offline.forward_mode(*case, directions=3, key=jax.random.key(1))
    with pytest.raises(AssertionError):
        assert_close(some.total, exact, 1e-3)


@pytest.mark.parametrize("directions", [1, 3])
def test_mean_and_variance_are_those_of_the_docstring(directions):
    case = quadratic("momentum", horizon=5)
    exact = hd.offline.reverse_mode(*case).second_order

    def one(key):
        g = hd.offline.forward_mode(*case, directions=directions, key=key)
        return g.second_order

    errors = jax.vmap(one)(jax.random.split(jax.random.key(0), 4000)) - exact[None]
    law = (scalars(case.hparams) - 1) / directions * jnp.sum(exact**2)
    squares = np.asarray(jnp.sum(errors**2, -1))
    assert abs(squares.mean() - law) < 5 * squares.std() / np.sqrt(squares.size)
    spread = np.asarray(errors.std(0)) / np.sqrt(len(errors))
    assert (np.abs(np.asarray(errors.mean(0))) < 5 * spread).all()


def test_online_keeps_the_directions_of_its_first_key():
    case = quadratic("sgd", horizon=4)
    online = run_online(hd.online.forward_mode(case.problem, directions=2), *case)
    first = hd.offline.forward_mode(*case, directions=2, key=jax.random.key(0))
    assert_close(online, first, 1e-12)  # run_online gives step t key t


def test_products_and_memory_do_not_depend_on_the_number_of_hparams():
    def update(w, h, d):
        return w - 0.1 * (w - jnp.tanh(h).sum() * d)

    problem = hd.Problem(update, lambda w, h, d: jnp.sum((w - d) ** 2))
    w, d = jnp.ones(50), jnp.ones((6, 50))
    for size in (10, 10_000):
        h = jnp.linspace(-1.0, 1.0, size)
        estimator = hd.online.forward_mode(problem, directions=3)
        assert estimator.init(w, h, d[0]).jacobian[0].shape == (3, 50)
        run = (problem, h, w, d, d[0])
        key = jax.random.key(0)
        info = hd.offline.forward_mode(*run, directions=3, key=key, return_info=True)[1]
        assert info.products == 18


def test_bad_arguments_are_named():
    case = quadratic("sgd", horizon=2)
    for bad in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="directions="):
            hd.offline.forward_mode(*case, directions=bad, key=jax.random.key(0))
        with pytest.raises(ValueError, match="directions="):
            hd.online.forward_mode(case.problem, directions=bad)
    with pytest.raises(ValueError, match=r"key=None: .*directions=2"):
        hd.offline.forward_mode(*case, directions=2)
    with pytest.raises(ValueError, match="key is given: expected None without directions"):
        hd.offline.forward_mode(*case, key=jax.random.key(0))
