"""Reverse mode without a trajectory: each step is undone on the way back."""

import jax
import jax.numpy as jnp
import optax

from hdistill.hypergradient.estimator import Hypergradient
from hdistill.hypergradient.offline_method import (
    ALL,
    Arguments,
    OfflineInfo,
    offline_method,
    run_offline,
)
from hdistill.hypergradient.outer_losses import OuterLosses
from hdistill.problem import InnerRun
from hdistill.products import inner_pullback
from hdistill.reversible import Reversible
from hdistill.tree import like, wide


@offline_method
def reversal(
    problem,
    hparams,
    weights,
    batches,
    outer_batch,
    *,
    every: int | None = None,
    horizon=None,
    return_info=False,
):
    """g = g^FO + Σ_t α_T A_T … A_{t+1} B_t, exact, with w_{t-1} from w_t by Φ's inverse.

    Nothing is kept of the way forward but its end: memory is that of two copies of the weights,
    which hold the bits that momentum loses and so grow a little with T. Each step is made three
    times: forward, undone, and within the product. Φ is an `hd.Reversible`, such as that of
    `hd.reversible_sgd`.

    Warning: if the way back does not end at w_0 to the bit, g would be that of another trajectory:
    it is then nan in every entry, as `info.start` is, and `info.finite` is False. Causes: a weight
    is out of the fixed point's range; there are more steps than it has room for; the inverse is
    wrong, or undoes to the bit only from numbers that w_0 is not one of.

    References:
      Maclaurin et al., "Gradient-based Hyperparameter Optimization through Reversible Learning",
      ICML 2015.

    Examples:
      >>> undone, start = hd.reversible_sgd(inner_loss, outer_loss, 0.05, momentum=(9, 10))
      >>> w0 = start(params, 20)
      >>> g = hd.offline.reversal(undone, hparams, w0, batches, outer_batch, horizon=20)
      >>> print(g.total)
      [-0.21  0.08  0.66]

    Args:
      problem: Φ, an `hd.Reversible`, and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      outer_batch: the batch of L_val; with `every`, stacked [m, ...], or a function of the inner
        step, asked at t = n-1, 2n-1, ...
      every: n, inner steps between two outer losses, whose sum is differentiated; None for L_val
        at w_T only.
      horizon: T, where `batches` does not tell it.
      return_info: also return an `OfflineInfo`, whose `start` is the exact derivative in w_0.

    Returns:
      A `Hypergradient`; with `return_info`, a pair with the info. 2T - 1 products; with `every`,
      2mn - 1.

    Raises:
      ValueError: a Φ that is no `hd.Reversible`, or arguments that do not fit together; see
        `hdistill.checks`.

    Warns:
      ZeroHypergradientWarning: no path leads from some leaf of λ to L_val.
    """
    if not isinstance(getattr(problem, "update", None), Reversible):
        raise ValueError(
            f"problem.update={getattr(problem, 'update', None)!r}: expected an "
            "hd.Reversible(update, inverse), as hd.reversible_sgd makes"
        )
    arguments = Arguments(problem, hparams, weights, batches, outer_batch, horizon, every)
    return run_offline(_reversal, "reversal", ALL, arguments, return_info)


def _reversal(inner: InnerRun, losses: OuterLosses):
    problem, hparams, end = inner.problem, inner.hparams, losses.end
    last, _ = inner.stretch(inner.weights, 0, end).steps()
    loss, alpha, first_order = losses.pullback(inner, last, end)

    def back(state, _):
        t, weights, alpha, total, first_order = state
        batch, value = inner.batch_at(t), None
        weights = problem.update.inverse(weights, hparams, batch)
        alpha, direct = inner_pullback(problem, weights, hparams, batch, alpha)
        total = optax.tree.add(total, wide(direct))
        if losses.number > 1:
            value, alpha, first_order = losses.add(inner, weights, t, alpha, first_order)
        return (t - 1, weights, alpha, total, first_order), value

    state = jnp.int32(end - 1), last, alpha, optax.tree.zeros_like(wide(hparams)), first_order
    (_, first, alpha, total, first_order), values = jax.lax.scan(
        back, state, length=end, reverse=True
    )
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(inner.weights))
    same = jnp.all(jnp.stack([jnp.all(a == b) for a, b in pairs]))
    between = None if values is None else values[losses.every :: losses.every]
    final, _ = inner.stretch(last, end, inner.horizon - end).steps()
    result = Hypergradient(first_order, like(total, hparams))
    result, alpha = jax.tree.map(lambda x: jnp.where(same, x, jnp.nan), (result, alpha))
    info = OfflineInfo(final, losses.info(None, between, loss), 2 * end - 1, start=alpha)
    return result, info._replace(steps=inner.horizon + end)
