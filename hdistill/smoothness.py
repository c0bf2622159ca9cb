"""How smoothly trained weights answer λ: whether a derivative can say what a change of λ does."""

import jax
import jax.numpy as jnp
import optax

from hdistill.cache import compiled
from hdistill.checks.batches import batch_stream, count_steps, functions_in, separate
from hdistill.checks.problem import check_functions
from hdistill.checks.values import check_hparams, check_key, check_positive, check_weights
from hdistill.problem import InnerRun, Problem
from hdistill.tree import split


def smoothness(
    problem: Problem,
    hparams,
    weights,
    batches,
    *,
    key,
    horizon: int | None = None,
    step: float = 0.05,
) -> jax.Array:
    """Ŝ: 1 where the trained weights answer a change of λ smoothly, 0 where the answer is noise.

    Three trainings, at λ, λ + hv and λ + 2hv with v of ±1, end at w_0, w_1 and w_2, and

        Ŝ = Σ_i d_i / ‖d‖₁ · sign(w_1 - w_0)_i · sign(w_2 - w_1)_i,  d = |w_2 - w_0|

    (Engstrom et al. 2025, arXiv 2503.13751): the share of the weights' change that goes on the same
    way. Where it is low, an exact hypergradient is right and says little of what any change of λ
    does. `hd.diagnose` reports it beside other checks; this is for many trainings at once, by
    `jax.vmap` over keys, weights or rates.

    Examples:
      >>> found = hd.smoothness(
      ...     problem, hparams, weights, batches, key=jax.random.key(0), horizon=20
      ... )
      >>> print(f"{found:.2f}")
      1.00

    Args:
      problem: Φ; L_val is not asked.
      hparams: λ, a floating-point pytree.
      weights: the weights before the first step, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      key: typed PRNG key, for v.
      horizon: T, where `batches` does not tell it.
      step: h, of each leaf's root mean square where that is below 1 (rates), else of 1.

    Returns:
      Ŝ, a floating scalar; nan where no weight changes. Weights that are not finite are left out.

    Raises:
      ValueError: arguments that do not fit together.
    """
    check_functions(problem)
    check_key(key)
    step = check_positive("step", step)
    horizon = count_steps(batches, horizon)
    check_hparams(hparams)
    check_weights(weights)
    function, arrays = separate(batches)
    reads = functions_in(batches)
    program = compiled(_smoothness, problem, function, horizon, step, reads=reads)
    return program(hparams, weights, arrays, key)


def _smoothness(problem, function, horizon, step):
    def call(hparams, weights, arrays, key):
        batch_at = batch_stream(arrays if function is None else function)

        def train(hparams):
            return InnerRun(problem, hparams, weights, batch_at, horizon).steps()[0]

        return agreement(jax.lax.map(train, along(hparams, direction(key, hparams), step)))

    return call


def direction(key, hparams):
    """v: ±1 in each entry, times the leaf's root mean square where that is below 1."""
    leaves, structure = jax.tree.flatten(hparams)
    found = []
    for one, x in zip(jax.random.split(key, len(leaves)), leaves):
        signs = jax.random.rademacher(one, jnp.shape(x), jnp.result_type(x))
        size = jnp.sqrt(jnp.mean(jnp.square(x)))
        found.append(jnp.where(size > 0, jnp.minimum(size, 1), 1).astype(signs.dtype) * signs)
    return jax.tree.unflatten(structure, found)


def along(hparams, v, step: float):
    """λ, λ + hv and λ + 2hv, on a new leading axis."""
    three = [optax.tree.add_scale(hparams, i * step, v) for i in range(3)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *three)


def agreement(ends) -> jax.Array:
    """Ŝ of the weights that three trainings end at, on a leading axis."""
    agree = total = jnp.zeros(())
    for w in split(ends)[0]:
        far, near, then = w[2] - w[0], w[1] - w[0], w[2] - w[1]
        far = jnp.where(jnp.isfinite(far) & jnp.isfinite(near), jnp.abs(far), 0)
        total += far.sum()
        agree += jnp.where(far > 0, far * jnp.sign(near) * jnp.sign(then), 0).sum()
    return agree / total
