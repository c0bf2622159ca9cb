"""The decayed sum of one-step terms, the ablation that HyperDistill must beat."""

from typing import NamedTuple

import jax
import optax

from hdistill.checks.values import Signature, check_gamma
from hdistill.hypergradient.estimator import (
    Estimator,
    Hypergradient,
    Moved,
    make_estimator,
    no_products,
    spend,
)
from hdistill.products import hparams_pullback, outer_pullback
from hdistill.tree import is_finite, like, scale, select, wide


class GreedyState(NamedTuple):
    """State of the greedy estimator."""

    signature: tuple[Signature, Signature, Moved]  # of weights and hparams; which leaves move
    products: jax.Array  # int32 []
    total: object  # Σ_i γ^(t-i) α_i B_i, of the structure of λ


def online_greedy(problem, *, gamma: float = 0.9) -> Estimator:
    """g_t = g_t^FO + Σ_{i<=t} γ^(t-i) α_i B_i, restarted with each task.

    Each term is the one-step term of its step, computed then and decayed later, so the price
    is one product a step, HyperDistill's. Where λ moves every n-th step only, the sum runs over
    those steps. γ = 0 is one-step.

    References:
      Luketina et al., "Scalable Gradient-Based Tuning of Continuous Regularization
      Hyperparameters", ICML 2016, for the one-step term.

    Examples:
      >>> estimator = hd.online.greedy(problem, gamma=0.9)
      >>> state = estimator.init(weights, hparams, batch)
      >>> g, state = estimator.step(state, transition, jax.random.key(0))
      >>> print(g.total, state.products)
      [-0.03 -0.05 -0.05] 1

    Args:
      problem: Φ and L_val.
      gamma: γ in [0, 1].

    Raises:
      ValueError: γ outside [0, 1].
    """
    gamma = check_gamma(gamma)

    def init(signature, weights, hparams, batch):
        return GreedyState(signature, no_products(), optax.tree.zeros_like(wide(hparams)))

    def estimate(problem, state, transition):
        previous, current, hparams, batch, outer_batch = transition
        _, alpha, first_order = outer_pullback(problem, current, hparams, outer_batch)
        latest = wide(hparams_pullback(problem, previous, hparams, batch, alpha))
        earlier = scale(gamma, state.total)
        total = optax.tree.add(earlier, latest)
        # One bad outer batch spoils its own step, and is not remembered.
        kept = select(is_finite(latest), total, earlier)
        state = state._replace(total=kept, products=spend(state.products, 1))
        return Hypergradient(first_order, like(total, hparams)), state

    return make_estimator(problem, 1, "greedy", init, lambda problem, state, *_: state, estimate)
