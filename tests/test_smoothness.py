"""Ŝ against what three trainings are known to end at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hdistill as hd
from tests.problems import quadratic


def ends_at(function):
    """The problem that ends at function(λ) after any number of steps."""
    return hd.Problem(lambda w, h, d: function(h), lambda w, h, d: 0.0)


def turning(h):
    """With λ = 0.5, v = ±0.5, h = 0.1: the first entry goes on, the second turns back."""
    moved = jnp.abs(h - 0.5)
    return {"on": 3 * moved, "back": moved * (0.075 - moved), "lost": jnp.inf / moved}


def test_the_share_of_the_change_that_goes_on():
    start = {"on": 0.0, "back": 0.0, "lost": 0.0}
    given = ends_at(turning), jnp.array(0.5), start, None
    keys = jax.random.split(jax.random.key(0), 4)
    found = jax.vmap(lambda key: hd.smoothness(*given, key=key, horizon=2, step=0.1))(keys)
    np.testing.assert_allclose(found, (0.3 - 0.0025) / (0.3 + 0.0025), rtol=1e-12)


def test_what_is_linear_is_smooth_and_what_is_still_has_none():
    problem, *given, _ = quadratic("momentum")
    assert hd.smoothness(problem, *given, key=jax.random.key(0)) == 1
    still = ends_at(jnp.zeros_like)
    nothing = hd.smoothness(still, given[0], given[0], None, key=jax.random.key(0), horizon=1)
    assert jnp.isnan(nothing)


def test_a_direction_of_rates_is_as_long_as_they_are():
    """λ of 1e-4 moves by 5% of itself: else this Φ would turn back."""
    rates = jnp.full(3, 1e-4)
    problem = ends_at(lambda h: jnp.sin(h / 1e-4))
    assert hd.smoothness(problem, rates, rates, None, key=jax.random.key(0), horizon=1) == 1


@pytest.mark.parametrize("name, value", [("key", 0), ("step", 0.0), ("horizon", None)])
def test_bad_input_is_named(name, value):
    given = {"key": jax.random.key(0), "horizon": 1} | {name: value}
    with pytest.raises(ValueError, match=f"^{name}"):
        hd.smoothness(ends_at(turning), jnp.array(0.5), jnp.zeros(3), None, **given)
