"""Pooling and batch normalisation, against XLA's own and against plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hdistill.models.layers import BatchNorm, max_pool2x2
from tests.problems import assert_close


def test_pool_equals_xla_s():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 5, 3)))
    pooled = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    assert_close(max_pool2x2(x), pooled, 0)


def test_one_entry_of_each_window_has_the_gradient():
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (2, 6, 7, 3)), jnp.float32)
    given = jnp.asarray(np.random.default_rng(1).uniform(1, 2, (2, 3, 3, 3)), jnp.float32)
    gradient = jax.grad(lambda x: jnp.sum(given * max_pool2x2(x)))(x)
    assert (gradient[:, :, 6] == 0).all()
    windows = gradient[:, :, :6].reshape(2, 3, 2, 3, 2, 3)
    assert ((windows != 0).sum((2, 4)) == 1).all()
    assert_close(windows.sum((2, 4)), given, 0)
    assert_close((gradient * x).sum(), (given * max_pool2x2(x)).sum(), 1e-6)


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_pooling_keeps_what_is_not_a_number(place):
    assert jnp.isnan(max_pool2x2(jnp.ones((1, 2, 2, 1)).at[0, *place, 0].set(jnp.nan))).all()


def test_batch_norm_is_by_the_batch_s_own_statistics():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, size=(6, 4, 4, 2)))
    layer = BatchNorm()
    variables = layer.init(jax.random.key(0), x)
    out = layer.apply(variables, x)
    assert set(variables) == {"params"}
    assert_close(
        out,
        (x - x.mean((0, 1, 2))[None, None, None])
        / np.sqrt(np.asarray(x).var((0, 1, 2)) + 1e-5).reshape(1, 1, 1, -1),
        1e-12,
    )


def normalised(params, x):
    """The formula, differentiated by JAX's own rules."""
    centred = x - x.mean((0, 1, 2), keepdims=True)
    slope = params["scale"] / jnp.sqrt((centred**2).mean((0, 1, 2)) + 1e-5)
    return centred * slope[None, None, None] + params["bias"][None, None, None]


def pooled(params, x):
    """The formula, then the largest of each window, by its place: see max_pool2x2 of a maximum."""
    y = normalised(params, x)
    batch, height, width, channels = y.shape
    y = y[:, : height // 2 * 2, : width // 2 * 2]
    windows = y.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
    windows = windows.reshape(*windows.shape[:4], 4)
    return jnp.take_along_axis(windows, windows.argmax(-1, keepdims=True), -1)[..., 0]


@pytest.mark.parametrize("formula", [normalised, pooled])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivatives_of_batch_norm_equal_those_of_the_formula(order, formula):
    """Backwards once or twice, then along a direction; images far from zero, tasks side by side.

    Of scales of both signs, for pooling comes before them.
    """
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(5, 2, size=(3, 4, 3, 2, 2)))
    params = {name: jnp.asarray(rng.normal(size=(3, 2))) for name in ("scale", "bias")}
    assert {True, False} == set(np.ravel(params["scale"] > 0).tolist())

    def layer(params, x):
        return BatchNorm(pool=formula is pooled).apply({"params": params}, x)

    def derivative(function, *at):
        for _ in range(order - 1):
            function = squared_gradient(function)
        return jax.jvp(function, at, jax.tree.map(jnp.cos, at))[1]

    def squared_gradient(function):
        gradient = jax.grad(lambda *at: jnp.sin(function(*at)).sum(), (0, 1))
        return lambda *at: sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient(*at)))

    ours, theirs = (
        jax.jit(jax.vmap(lambda *at, f=f: derivative(f, *at)))(params, x) for f in (layer, formula)
    )
    assert_close(ours, theirs, 1e-11)
