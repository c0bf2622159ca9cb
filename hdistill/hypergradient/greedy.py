"""The decayed sum of one-step terms, the ablation that HyperDistill must beat."""

from typing import NamedTuple

import jax
import optax

from hdistill.checks import Signature, check_gamma
from hdistill.hypergradient.base import Estimator, Hypergradient, make_estimator, no_products, spend
from hdistill.products import hparams_pullback, outer_pullback
from hdistill.tree import scale


class GreedyState(NamedTuple):
    """State of the greedy estimator."""

    signature: tuple[Signature, Signature]  # of (weights, hparams)
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
        return GreedyState(signature, no_products(), optax.tree.zeros_like(hparams))

    def estimate(problem, state, transition):
        previous, current, hparams, batch, outer_batch = transition
        _, alpha, first_order = outer_pullback(problem, current, hparams, outer_batch)
        latest = hparams_pullback(problem, previous, hparams, batch, alpha)
        total = optax.tree.add(scale(gamma, state.total), latest)
        state = state._replace(total=total, products=spend(state.products, 1))
        return Hypergradient(first_order, total), state

    return make_estimator(problem, 1, "greedy", init, lambda state, *_: state, estimate)
