"""HyperDistill: the second-order term as one product at a distilled point, times a fitted size."""

import math
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hdistill.checks.values import Signature, check_gamma, check_key
from hdistill.hypergradient.distill import check_batch, check_mixing, mix_batches, mix_weights
from hdistill.hypergradient.estimator import (
    Estimator,
    Hypergradient,
    Moved,
    make_estimator,
    no_products,
    spend,
)
from hdistill.hypergradient.fit_size import literal_fit
from hdistill.products import hparams_pullback, outer_pullback
from hdistill.tree import like, scale, unit, wide


class HyperDistillState(NamedTuple):
    """State of HyperDistill."""

    signature: tuple[Signature, Signature, Moved]  # of weights and hparams; which leaves move
    products: jax.Array  # int32 []
    theta: jax.Array  # θ of Eq. 15, floating []; 1 until replaced by a fitted one
    weights: object  # w*_t, of the structure of w; half precision as float32
    batch: object  # D*_t, of the structure of a batch
    decay_sum: jax.Array  # S_t = 1 + γ + … + γ^(t-1), floating []

    @property
    def size(self):
        """θ S_t, floating []; tasks side by side have one θ and one S_t."""
        return jnp.mean(self.theta * self.decay_sum)


def online_hyperdistill(
    problem, *, gamma: float = 0.9, size: str | float = "fit", mixing: str = "aligned"
) -> Estimator:
    """g_t = g_t^FO + π*_t σ(v_t), one Jacobian product a step (Algorithm 3 of Lee et al. 2022).

        S_t  = 1 + γ S_{t-1},  p_t = γ S_{t-1} / S_t                       (Eq. 13)
        w*_t = p_t w*_{t-1} + (1 - p_t) w_{t-1}                            (Eq. 13)
        D*_t = a share p_t of D*_{t-1}, the rest of D_t                    (Eq. 14)
        v_t  = α_t ∂Φ(w*_t, λ; D*_t)/∂λ,  σ(v) = v / ‖v‖
        π*_t = θ ‖v_t‖ S_t                                                 (Eq. 15)

    so that with a fitted size g_t = g_t^FO + θ S_t v_t, without any division. θ is `state.theta`:
    fit it with `hd.fit_size` and `state._replace(theta=theta)`; the learner does so by itself.
    γ = 0 with θ = 1 is `one_step`; γ = 1 distils to the plain average of the trajectory.

    Weights' integer leaves (step counters) take no average: w* has those of w_{t-1}.

    If Φ carries momentum, this differentiates it too, unless the problem has a surrogate. The
    paper's is plain gradient descent (Eq. 7): `hd.from_losses(..., surrogate=optax.sgd(rate))` with
    `mixing="apart"`. Without it some runs of the sinusoid study diverge (RESULTS.md).

    Warning: this departs from the paper in three places. A share of D* is drawn, not rounded. With
    "aligned" the examples of D* keep their places (`hdistill.hypergradient.distill.mix_batches`).
    A learner refuses a fitted θ that is not finite or not positive (`hd.FitStatus`): on digits a
    fifth to a half of the fits are so, and where all are taken some streams end at chance
    (RESULTS.md, bench/refusal).

    Examples:
      >>> # As the paper has it, without momentum in the products:
      >>> paper = hd.from_losses(inner_loss, outer_loss, optimizer, surrogate=optax.sgd(0.1))
      >>> estimator = hd.online.hyperdistill(paper, gamma=0.9)
      >>> state = estimator.init(weights, hparams, batch)
      >>> g, state = estimator.step(state, transition, jax.random.key(0))
      >>> print(g.total, state.products)
      [-0.06 -0.09 -0.1 ] 1

    Args:
      problem: Φ and L_val.
      gamma: γ in [0, 1], the decay of past steps.
      size: "fit" for π* of Eq. 15, or a number for a constant π*, the norm of the second-order
        term (1.0 for MetaWeightNet, Appendix I).
      mixing: how D* is drawn, "aligned" (examples keep their places) or "apart" (Eq. 14).

    Returns:
      An `Estimator`. Its state holds one more copy of the weights and of a batch; memory is
      constant in T, and of a fit what `hd.fit_size` says.

    Raises:
      ValueError: γ outside [0, 1], another size or mixing, or batches whose leading axes
        differ; from `step`, a key that is not one typed key.
    """
    gamma, mixing = check_gamma(gamma), check_mixing(mixing)
    fitted = isinstance(size, str) and size == "fit"
    if not fitted and not (
        isinstance(size, numbers.Real) and not isinstance(size, bool) and 0 <= size < math.inf
    ):
        raise ValueError(f"size={size!r}: expected 'fit' or a finite Python number >= 0")

    def init(signature, weights, hparams, batch):
        return HyperDistillState(
            signature,
            products=no_products(),
            theta=jnp.ones(()),
            weights=jax.tree.map(jnp.asarray, wide(weights)),
            batch=check_batch(batch),
            decay_sum=jnp.zeros(()),
        )

    def observe(problem, state, transition, key):
        check_key(key)
        Signature.of(state.batch).check("transition.batch", transition.batch)
        weights, share, decay_sum = mix_weights(
            gamma, state.decay_sum, state.weights, transition.previous
        )
        return state._replace(
            weights=weights,
            batch=mix_batches(key, share, state.batch, transition.batch, mixing),
            decay_sum=decay_sum,
        )

    def estimate(problem, state, transition):
        _, current, hparams, _, outer_batch = transition
        _, alpha, first_order = outer_pullback(problem, current, hparams, outer_batch)
        point = like(state.weights, current)
        v = hparams_pullback(problem, point, hparams, state.batch, alpha)
        second_order = scale(state.size, v) if fitted else scale(size, unit(v)[0])
        state = state._replace(products=spend(state.products, 1))
        return Hypergradient(first_order, second_order), state

    fit = literal_fit(problem, gamma, mixing) if fitted else None
    return make_estimator(problem, 1, "hyperdistill", init, observe, estimate, fit, shares=fitted)
