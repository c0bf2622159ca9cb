"""A decayed mean of second-order directions, which costs no product."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.tree import mix, wide


class Average(NamedTuple):
    """m_t = Σ_i ρ^(t-i) x_i / Σ_i ρ^(t-i).

    Attributes:
      mean: m_t, of the structure of x; of half precision in float32.
      weight: Σ_i ρ^(t-i), floating [].
    """

    mean: object
    weight: jax.Array


def empty(like) -> Average:
    """Before the first x."""
    return Average(optax.tree.zeros_like(wide(like)), jnp.zeros(()))


def extend(average: Average, x, memory: float) -> Average:
    """With one more x; `memory` is ρ in [0, 1). At ρ = 0 the mean is x to the last bit."""
    weight = 1 + memory * average.weight
    return Average(mix(memory * average.weight / weight, average.mean, x, latest=x), weight)
