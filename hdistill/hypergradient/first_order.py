"""First-order: the direct gradient, with no response of the weights to λ."""

import optax

from hdistill.hypergradient.estimator import Estimator, Hypergradient, shares_hparams
from hdistill.hypergradient.last_step import LastStep, offline_last_step, online_last_step
from hdistill.hypergradient.offline_method import Arguments, OfflineInfo, offline_method

_METHOD = LastStep(
    name="first_order",
    depth=0,
    second_order=lambda problem, previous, hparams, *_: (optax.tree.zeros_like(hparams), 0),
)


@shares_hparams
@offline_method
def first_order(
    problem, hparams, weights, batches, outer_batch, *, horizon=None, return_info=False
) -> Hypergradient | tuple[Hypergradient, OfflineInfo]:
    """g = g^FO = ∂L_val(w_T, λ)/∂λ: the weights are taken not to depend on λ.

    Examples:
      >>> g = hd.offline.first_order(direct, hparams, weights, batches, outer_batch, horizon=20)
      >>> print(g.total)
      [0.14 0.14 0.14]

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      outer_batch: the batch of L_val.
      horizon: T, where `batches` does not tell it.
      return_info: also return an `OfflineInfo`.

    Returns:
      A `Hypergradient` whose second-order term is zero; with `return_info`, a pair with the info.

    Raises:
      ValueError: arguments that do not fit together; see `hdistill.checks`.

    Warns:
      ZeroHypergradientWarning: L_val does not depend on some leaf of λ.
    """
    arguments = Arguments(problem, hparams, weights, batches, outer_batch, horizon)
    return offline_last_step(_METHOD, arguments, return_info)


def online_first_order(problem) -> Estimator:
    """g_t = g_t^FO after every inner step, no product; see `hdistill.offline.first_order`.

    Examples:
      >>> estimator = hd.online.first_order(direct)
      >>> state = estimator.init(weights, hparams, batch)
      >>> g, state = estimator.step(state, transition, jax.random.key(0))
      >>> print(g.total)
      [0.14 0.14 0.14]

    Args:
      problem: Φ and L_val.

    Returns:
      An `Estimator`. Its step raises ValueError, while tracing, for arguments that do not fit
      together, and warns with ZeroHypergradientWarning where L_val does not see some leaf of λ.
    """
    return online_last_step(_METHOD, problem)
