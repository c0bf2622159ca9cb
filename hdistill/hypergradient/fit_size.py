"""Algorithm 4: the size θ of HyperDistill's second-order term, fitted on a DrMAD pass."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.checks.values import check_gamma, check_key
from hdistill.hypergradient.backward import backward
from hdistill.hypergradient.distill import check_batch, check_mixing, mix_batches, mix_weights_back
from hdistill.hypergradient.drmad_line import walk
from hdistill.hypergradient.fit import Fit
from hdistill.hypergradient.moving import moving_run
from hdistill.hypergradient.offline_method import Arguments, open_offline
from hdistill.hypergradient.outer_losses import OuterLosses, outer_losses
from hdistill.problem import InnerRun
from hdistill.products import hparams_pullback
from hdistill.tree import like, scale, unit, wide


class SizeSamples(NamedTuple):
    """The samples θ is fitted to: y_s ≈ θ x_s, for s = 1..T (entry s - 1).

    Attributes:
      x: ‖v_s‖ S_s, floating [T].
      y: σ(v_s)ᵀ g_s^SO, the best size along σ(v_s), floating [T].
    """

    x: jax.Array
    y: jax.Array


def fit_size(
    problem,
    hparams,
    weights,
    batches,
    outer_batch,
    key,
    *,
    gamma: float = 0.9,
    mixing: str = "aligned",
    horizon=None,
):
    """Fits θ of π* = θ ‖v‖ S by least squares over all horizons (Algorithm 4 of Lee et al. 2022).

    One inner optimisation forwards, then DrMAD's pass back; after s of its steps, with
    S_s = 1 + γ S_{s-1}, p_s = S_{s-1} / S_s, and ŵ DrMAD's line,

        w*_s = p_s w*_{s-1} + (1 - p_s) ŵ_{T-s},  D*_s likewise            (Eq. 17)
        v_s  = α_T ∂Φ(w*_s, λ; D*_s)/∂λ
        x_s  = ‖v_s‖ S_s,  y_s = σ(v_s)ᵀ g_s^SO
        θ    = Σ x_s y_s / Σ x_s²

    Costs T inner steps and 3T - 1 Jacobian products; memory is constant in T but for the weights'
    leaves without derivative (see `hd.offline.drmad`).

    Warning: θ is returned as it comes out, negative where the samples say so. An estimator with a
    negative θ moves λ uphill; the learner refuses such a θ (`hd.FitStatus`).

    Examples:
      >>> theta, samples = hd.fit_size(
      ...     problem, hparams, weights, batches, outer_batch, jax.random.key(0), horizon=20
      ... )
      >>> print(f"θ = {theta:.2f} from {samples.x.size} samples")
      θ = 1.66 from 20 samples

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      outer_batch: the batch of L_val.
      key: typed PRNG key, for D*.
      gamma: γ in [0, 1], as the estimator's.
      mixing: how D* is drawn, "aligned" or "apart", as the estimator's.
      horizon: T, where `batches` does not tell it.

    Returns:
      (theta, samples): a floating scalar and `SizeSamples`. θ is 0 where every v_s is.

    Raises:
      ValueError: γ outside [0, 1], another mixing, a raw key, batches whose leading axes
        differ, or arguments that do not fit together; see `hdistill.checks`.
    """
    gamma, mixing = check_gamma(gamma), check_mixing(mixing)
    check_key(key)
    arguments = Arguments(problem, hparams, weights, batches, outer_batch, horizon)
    program, arrays = open_offline(_fit_size, "fit_size", 1, arguments, gamma, mixing)
    return program(*arrays, key)


def _fit_size(inner: InnerRun, losses: OuterLosses, key, gamma, mixing):
    x, y, _ = measure_sizes(literal_term(gamma, mixing), inner, losses, key)
    return least_squares((jnp.vdot(x, y), jnp.vdot(x, x))), SizeSamples(x, y)


class Term(NamedTuple):
    """A second-order term of a method, built up along DrMAD's pass back.

    Attributes:
      start: `(hparams, point, batch) -> carry`, with ŵ_{T-1} and D_T.
      step: `(carry, key, point, batch, pull) -> (vector, carry)`, with ŵ_{T-s} and its batch after
        s steps; `pull(weights, batch)` is α_T ∂Φ/∂λ there, one product.
    """

    start: Callable
    step: Callable


def literal_term(gamma: float, mixing: str) -> Term:
    """S_s v_s of Algorithm 4."""

    def start(hparams, point, batch):
        return wide(point), check_batch(batch), jnp.zeros(())

    def step(carry, key, point, batch, pull):
        weights, mixed, before = carry
        weights, share, decay_sum = mix_weights_back(gamma, before, weights, point)
        mixed = mix_batches(key, share, mixed, batch, mixing)
        return scale(decay_sum, wide(pull(weights, mixed))), (weights, mixed, decay_sum)

    return Term(start, step)


def literal_fit(problem, gamma: float, mixing: str) -> Fit:
    """Algorithm 4 as an estimator's `Fit`: over all samples of all tasks."""

    def measure(inner, outer_batch, key):
        inner, losses = inner._replace(problem=problem), outer_losses(inner.horizon, outer_batch)
        x, y, _ = measure_sizes(literal_term(gamma, mixing), inner, losses, key)
        return jnp.vdot(x, y), jnp.vdot(x, x)

    return Fit(1.0, measure, least_squares, size_products)


def size_products(horizon: int) -> int:
    """Jacobian products of one fit: DrMAD's 2T - 1, and one v_s for each of T horizons."""
    return 3 * horizon - 1


def least_squares(statistics):
    """θ = Σxy / Σx², 0 where Σx² is."""
    xy, xx = statistics
    return jnp.where(xx == 0, 0, xy / jnp.where(xx == 0, 1, xx))


def measure_sizes(term: Term, inner: InnerRun, losses: OuterLosses, key):
    """(x, y, ‖g_s^SO‖), each [T]: `fit_size`'s samples for a term, unchecked, and the norms."""
    inner = moving_run(inner)[0]
    problem, hparams, weights, batch_at, horizon, _ = inner
    walked = walk(inner, losses)
    alpha, point_at = walked.alpha, walked.point_at

    def pull(point, batch):
        return hparams_pullback(problem, like(point, weights), hparams, batch, alpha)

    def visit(carry, t, point, batch, cotangent, second_order):
        vector, carry = term.step(carry, jax.random.fold_in(key, t), point, batch, pull)
        direction, norm = unit(vector)
        best, exact = optax.tree.vdot(direction, second_order), optax.tree.norm(second_order)
        return carry, cotangent, (norm, best, exact)

    last = jnp.asarray(horizon - 1, jnp.int32)
    start = term.start(hparams, point_at(last), batch_at(last))
    pulled = backward(inner, point_at, alpha, visit=visit, carry=start)
    return jax.tree.map(lambda x: x[::-1], pulled.outputs)
