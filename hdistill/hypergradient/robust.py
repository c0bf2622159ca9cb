"""HyperDistill with a bounded second-order term: a mean, a size and two bounds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.checks.values import Signature, check_gamma, check_positive
from hdistill.hypergradient.distill import mix_weights, mix_weights_back
from hdistill.hypergradient.estimator import (
    Estimator,
    Hypergradient,
    Moved,
    make_estimator,
    no_products,
    spend,
)
from hdistill.hypergradient.fit import Fit
from hdistill.hypergradient.fit_size import Term, measure_sizes, size_products
from hdistill.hypergradient.outer_losses import outer_losses
from hdistill.products import hparams_pullback, outer_pullback
from hdistill.tree import is_finite, like, mix, scale, select, wide

NEGLIGIBLE = 1e-3  # a ‖g^FO‖ below this share of ‖g^SO‖ says nothing of how long g^SO may be


class RobustSize(NamedTuple):
    """The two numbers that robust HyperDistill fits.

    Attributes:
      factor: θ of u_t = θ m_t, floating [].
      limit: the root mean square of ‖g_s^SO‖ over the samples, floating []; infinite before a fit.
    """

    factor: jax.Array | float
    limit: jax.Array | float


class Average(NamedTuple):
    """m_t = Σ_i ρ^(t-i) x_i / Σ_i ρ^(t-i).

    Attributes:
      mean: m_t, of the structure of x; of half precision in float32.
      weight: Σ_i ρ^(t-i), floating [].
    """

    mean: object
    weight: jax.Array


class RobustState(NamedTuple):
    """State of robust HyperDistill."""

    signature: tuple[Signature, Signature, Moved]  # of weights and hparams; which leaves move
    products: jax.Array  # int32 []
    theta: RobustSize
    weights: object  # w*_t, of the structure of w; half precision as float32
    decay_sum: jax.Array  # S_t, floating []
    steps: jax.Array  # t, int32 []
    average: Average  # m_t, and the same mean of ‖S_i v_i‖


def online_robust_hyperdistill(
    problem, *, gamma: float = 0.6, memory: float = 0.65, trust: float = 0.9
) -> Estimator:
    """HyperDistill whose second-order term is averaged and bounded.

        v_t = α_t ∂Φ(w*_t, λ; D_t)/∂λ                             (w* and S of `hyperdistill`)
        m_t = Σ_i ρ^(t-i) S_i v_i / Σ_i ρ^(t-i)
        R_t = ‖m_t‖ / (Σ_i ρ^(t-i) ‖S_i v_i‖ / Σ_i ρ^(t-i))
        u_t = min(θ, t (t+1) / (2 S_t)) m_t
        g_t = g_t^FO + u_t · min(1, κ R_t² ‖g_t^FO‖ / ‖u_t‖), and g_t^FO where ‖u_t‖ overflows

    with ρ = `memory` and κ = `trust`; R_t says how far the products agree, 1 where they point one
    way.

    - Where ‖g_t^FO‖ is zero (MetaWeightNet), or below a thousandth of the root mean square of
      ‖g_s^SO‖ in the last fit, that root mean square stands in its place; before a fit there is
      then no such bound.
    - The means are over the steps at which λ moves; in a fit, over all steps.
    - A v_i that overflows is left out. Where v_t is nan at a finite α_t, Φ has no derivative there,
      and g_t is nan.
    - The fit: θ² = Σ ‖g_s^SO‖² / Σ ‖m_s‖² over all tasks. Where Σ m_sᵀ g_s^SO <= 0 or a sum
      overflows it is refused, and θ stays what it was (`hd.FitStatus`).

    One product a step; memory is constant in T; a fit costs what `fit_size` costs. Early on λ moves
    far, so fit early and often: `hd.learner(..., fit_period=lambda m: m & (m - 1) == 0)` fits
    before inner optimisations 1, 2, 4, 8, ..., as the studies do.

    Warning: this departs from the paper, on purpose, in five places: D_t for D*_t, a mean for the
    last product, θ fitted to norms, and two bounds. In the paper u_t = θ S_t v_t. Why, and how γ, ρ
    and κ were chosen: experiments/results/research/robust.md.

    Examples:
      >>> learner = hd.learner(
      ...     problem,
      ...     hd.online.robust_hyperdistill(problem),
      ...     hyper_optimizer=optax.adam(0.01),
      ...     horizon=20,
      ...     fit_period=lambda m: m & (m - 1) == 0,  # before inner optimisations 1, 2, 4, 8, ...
      ... )
      >>> state = learner.init(jax.random.key(0), hparams, weights)
      >>> state, info = learner.step(state, tasks)
      >>> print(f"θ = {info.theta:.2f}, {info.products} products")
      θ = 4.41, 79 products

    Args:
      problem: Φ and L_val.
      gamma: γ in [0, 1], the decay of past steps in w* and S. 0.6 was chosen on sinusoids and
        with Reptile; with FOMAML 0.99 was five points better at one rate (image_meta/fomaml).
      memory: ρ in [0, 1], the decay of past products in m.
      trust: κ > 0.

    Raises:
      ValueError: γ or ρ outside [0, 1], κ not positive and finite.
    """
    gamma, memory = check_gamma(gamma), check_gamma(memory, "memory")
    trust = check_positive("trust", trust)

    def init(signature, weights, hparams, batch):
        return RobustState(
            signature,
            products=no_products(),
            theta=RobustSize(jnp.ones(()), jnp.full((), jnp.inf)),
            weights=jax.tree.map(jnp.asarray, wide(weights)),
            decay_sum=jnp.zeros(()),
            steps=jnp.zeros((), jnp.int32),
            average=empty((hparams, optax.tree.norm(wide(hparams)))),
        )

    def observe(problem, state, transition, key):
        weights, _, decay_sum = mix_weights(
            gamma, state.decay_sum, state.weights, transition.previous
        )
        return state._replace(weights=weights, decay_sum=decay_sum, steps=spend(state.steps, 1))

    def estimate(problem, state, transition):
        _, current, hparams, batch, outer_batch = transition
        _, alpha, first_order = outer_pullback(problem, current, hparams, outer_batch)
        point = like(state.weights, current)
        v = wide(hparams_pullback(problem, point, hparams, batch, alpha))
        state = state._replace(products=spend(state.products, 1))
        product = scale(state.decay_sum, v)
        state = _remember(state, product, memory)
        mean, length = state.average.mean
        agreement = optax.tree.norm(mean) / jnp.where(length > 0, length, 1)
        hypergradient = Hypergradient(first_order, scale(_size(state), mean))
        bounded = _bound(hypergradient, trust * agreement**2, state.theta.limit)
        # An overflow says nothing; a product that is nan where α is finite has no derivative.
        norm = optax.tree.norm(product)
        missing = jnp.isnan(norm) & is_finite(alpha)
        second_order = jax.tree.map(
            lambda x: jnp.where(missing, norm.astype(x.dtype), x), bounded.second_order
        )
        return bounded._replace(second_order=like(second_order, hparams)), state

    def measure(inner, outer_batch, key):
        inner, losses = inner._replace(problem=problem), outer_losses(inner.horizon, outer_batch)
        x, y, norm = measure_sizes(averaged_term(gamma, memory), inner, losses, key)
        return jnp.vdot(x, y), jnp.mean(x**2), jnp.mean(norm**2)

    initial = RobustSize(1.0, float("inf"))
    fit = Fit(initial, measure, _match_norms, size_products, lambda fitted: fitted.factor)
    return make_estimator(problem, 1, "robust_hyperdistill", init, observe, estimate, fit)


def averaged_term(gamma: float, memory: float) -> Term:
    """m_s along DrMAD's pass back: the ρ-decayed mean of S_i v_i, at D_i."""

    def start(hparams, point, batch):
        return wide(point), jnp.zeros(()), empty(hparams)

    def step(carry, key, point, batch, pull):
        weights, before, average = carry
        weights, _, decay_sum = mix_weights_back(gamma, before, weights, point)
        average = extend(average, scale(decay_sum, wide(pull(weights, batch))), memory)
        return average.mean, (weights, decay_sum, average)

    return Term(start, step)


def _remember(state: RobustState, product, memory: float) -> RobustState:
    """With one more S_i v_i in the means, unless it overflows."""
    norm = optax.tree.norm(product)
    usable = jnp.isfinite(norm)
    extended = extend(state.average, (product, norm), memory)
    return state._replace(average=select(usable, extended, state.average))


def _size(state: RobustState):
    """min(θ, t (t+1) / (2 S_t)); in floating point, for t² outgrows int32 on endless streams."""
    t = state.steps.astype(state.decay_sum.dtype)
    return jnp.minimum(state.theta.factor, t * (t + 1) / (2 * state.decay_sum))


def _bound(hypergradient: Hypergradient, trust, limit) -> Hypergradient:
    """The second-order term cut to `trust` times the first-order one's norm, or times `limit`."""
    first, second = map(optax.tree.norm, hypergradient)
    limit = limit.astype(first.dtype)
    fitted = jnp.isfinite(limit)
    negligible = first <= NEGLIGIBLE * jnp.where(fitted, limit, 0)
    reference = jnp.where(negligible, jnp.where(fitted, limit, 0), first)
    longest = jnp.where(negligible & ~fitted, jnp.inf, trust * reference)
    factor = jnp.where(second > longest, longest / jnp.where(second > 0, second, 1), 1)
    bounded = scale(factor, hypergradient.second_order)
    # A term that overflows says nothing, and where `longest` is infinite nothing has cut it.
    usable = jnp.isfinite(second)
    return hypergradient._replace(
        second_order=jax.tree.map(lambda x: jnp.where(usable, x, jnp.zeros_like(x)), bounded)
    )


def _match_norms(statistics) -> RobustSize:
    xy, xx, squares = statistics
    theta = jnp.sqrt(squares / jnp.where(xx > 0, xx, 1))
    return RobustSize(jnp.where(xy <= 0, 0, theta), jnp.sqrt(squares))


def empty(like) -> Average:
    """Before the first x."""
    return Average(optax.tree.zeros_like(wide(like)), jnp.zeros(()))


def extend(average: Average, x, memory: float) -> Average:
    """With one more x; `memory` is ρ in [0, 1). At ρ = 0 the mean is x to the last bit."""
    weight = 1 + memory * average.weight
    return Average(mix(memory * average.weight / weight, average.mean, x, latest=x), weight)
