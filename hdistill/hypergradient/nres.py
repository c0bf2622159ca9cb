"""Noise-reuse evolution strategies (NRES): for Φ that has no useful derivative."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from hdistill.checks.values import Signature, check_count, check_key, check_positive
from hdistill.devices import vary_like
from hdistill.hypergradient.estimator import (
    Estimator,
    Hypergradient,
    Moved,
    make_estimator,
    no_products,
)


class NresState(NamedTuple):
    """State of NRES."""

    signature: tuple[Signature, Signature, Moved]  # of weights and hparams; which leaves move
    products: jax.Array  # int32 [], stays 0
    steps: jax.Array  # t, int32 []
    noise: jax.Array  # ε_i, floating [k, number of λ]
    ahead: Any  # w_t^+, of the structure of w, [k, *leaf]
    behind: Any  # w_t^-


def online_nres(problem, *, directions: int = 8, spread: float = 0.1) -> Estimator:
    """The derivative of the outer loss smoothed over λ, from values only.

    k pairs of trajectories run beside the inner optimisation, at λ + σ ε_i and λ - σ ε_i. ε_i is
    drawn once, by the first step's key, and stays to the end of the inner optimisation:

        w_t^± = Φ(w_{t-1}^±, λ ± σ ε_i; D_t),   ε_i from N(0, I)
        ĝ_t = 1/(2 σ k) Σ_i (L_val(w_t^+, λ + σ ε_i) - L_val(w_t^-, λ - σ ε_i)) ε_i

    At fixed λ its mean is the gradient of E_ε f_t(λ + σ ε), f_t(λ) = L_val(w_t(λ), λ), whether f_t
    has a derivative or not: for Φ with steps or rounding, and where training is so rough that
    the exact hypergradient is noise (`hd.diagnose`, Ŝ). Where f_t is smooth an exact method is
    better: E‖error‖² is about (number of λ + 1)/k ‖g‖².

    No derivative at all, of Φ or of L_val; 2k forward steps for each inner step, and 2k copies of
    the weights in memory, whatever T is. A pair whose losses are not finite counts as one without a
    difference; where all are, ĝ is nan.

    References:
      Li et al., "Variance-Reduced Gradient Estimation via Noise-Reuse in Online Evolution
      Strategies", NeurIPS 2023.

    Examples:
      >>> rounded = hd.Problem(  # a step function of λ: its derivative is 0 everywhere
      ...     update=lambda w, rate, batch: jnp.round(4 * rate) / 4 * batch + 0 * w,
      ...     outer_loss=lambda w, rate, batch: jnp.sum((w - batch) ** 2),
      ... )
      >>> estimator = hd.online.nres(rounded, directions=500, spread=0.3)
      >>> start, rate, ones = jnp.zeros(2), jnp.array(0.5), jnp.ones(2)
      >>> state = estimator.init(start, rate, ones)
      >>> move = hd.Transition(start, rounded.update(start, rate, ones), rate, ones, ones)
      >>> g, state = estimator.step(state, move, jax.random.key(0))
      >>> print(f"{g.total:.1f}")
      -1.9

    Args:
      problem: Φ and L_val.
      directions: k >= 1, pairs.
      spread: σ > 0, in the units of λ: one for all its scalars (λ in logarithms, say).

    Returns:
      An `Estimator`. `second_order` is the whole ĝ and `first_order` 0: values do not tell the two
      apart. Its step raises ValueError, while tracing, for arguments that do not fit together.

    Raises:
      ValueError: directions or spread out of range.
    """
    directions, spread = check_count("directions", directions), check_positive("spread", spread)

    def init(signature, weights, hparams, batch):
        flat, _ = ravel_pytree(hparams)
        noise = vary_like(jnp.zeros((directions, flat.size), flat.dtype), (weights, hparams))

        def copies(x):
            return jnp.broadcast_to(x, (directions, *jnp.shape(x)))

        pairs = vary_like(jax.tree.map(copies, weights), (weights, hparams))
        steps = jnp.zeros((), jnp.int32)
        return NresState(signature, no_products(), steps, noise, pairs, pairs)

    def on_pairs(function, state, hparams, batch):
        """What `function(weights, λ, batch)` gives of every w^+, and of every w^-."""
        flat, unravel = ravel_pytree(hparams)

        def one(weights, noise):
            return function(weights, vary_like(unravel(flat + noise), hparams), batch)

        far = spread * state.noise
        return jax.vmap(one)(state.ahead, far), jax.vmap(one)(state.behind, -far)

    def observe(problem, state, transition, key):
        _, _, hparams, batch, _ = transition
        check_key(key)
        # In every precision the same noise.
        drawn = jax.random.normal(key, state.noise.shape, jnp.float32).astype(state.noise.dtype)
        state = state._replace(noise=jnp.where(state.steps == 0, drawn, state.noise))
        ahead, behind = on_pairs(problem.update, state, hparams, batch)
        return state._replace(steps=state.steps + 1, ahead=ahead, behind=behind)

    def estimate(problem, state, transition):
        _, _, hparams, _, outer_batch = transition
        ahead, behind = on_pairs(problem.outer_loss, state, hparams, outer_batch)
        gap = ahead - behind
        known = jnp.isfinite(gap)
        gap = jnp.where(known, gap, jnp.where(known.any(), 0, jnp.nan))
        flat, unravel = ravel_pytree(hparams)
        whole = unravel((gap @ state.noise / (2 * spread * directions)).astype(flat.dtype))
        return Hypergradient(jax.tree.map(jnp.zeros_like, hparams), whole), state

    return make_estimator(problem, None, "nres", init, observe, estimate)
