"""One step: the response of the weights through the last inner step only."""

from hdistill.hypergradient.estimator import Estimator, Hypergradient, shares_hparams
from hdistill.hypergradient.last_step import LastStep, offline_last_step, online_last_step
from hdistill.hypergradient.offline_method import Arguments, OfflineInfo, offline_method
from hdistill.products import hparams_pullback

_METHOD = LastStep(
    name="one_step", depth=1, second_order=lambda *arguments: (hparams_pullback(*arguments), 1)
)


@shares_hparams
@offline_method
def one_step(
    problem, hparams, weights, batches, outer_batch, *, horizon=None, return_info=False
) -> Hypergradient | tuple[Hypergradient, OfflineInfo]:
    """g = g^FO + α_T B_T, with B_T = ∂Φ(w_{T-1}, λ; D_T)/∂λ and α_T = ∂L_val(w_T, λ)/∂w.

    References:
      Luketina et al., "Scalable Gradient-Based Tuning of Continuous Regularization
      Hyperparameters", ICML 2016.

    Examples:
      >>> g = hd.offline.one_step(problem, hparams, weights, batches, outer_batch, horizon=20)
      >>> print(g.total)
      [-0.08 -0.01  0.01]

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      outer_batch: the batch of L_val.
      horizon: T, where `batches` does not tell it.
      return_info: also return an `OfflineInfo`.

    Returns:
      A `Hypergradient`; with `return_info`, a pair with the info. One product.

    Raises:
      ValueError: arguments that do not fit together; see `hdistill.checks`.

    Warns:
      ZeroHypergradientWarning: no path leads from some leaf of λ through one step to L_val.
    """
    arguments = Arguments(problem, hparams, weights, batches, outer_batch, horizon)
    return offline_last_step(_METHOD, arguments, return_info)


def online_one_step(problem) -> Estimator:
    """g_t = g_t^FO + α_t B_t after every inner step, one product; see `hdistill.offline.one_step`.

    Examples:
      >>> estimator = hd.online.one_step(problem)
      >>> state = estimator.init(weights, hparams, batch)
      >>> g, state = estimator.step(state, transition, jax.random.key(0))
      >>> print(g.total, state.products)
      [-0.03 -0.05 -0.05] 1

    Args:
      problem: Φ and L_val.

    Returns:
      An `Estimator`. Its step raises ValueError, while tracing, for arguments that do not fit
      together, and warns with ZeroHypergradientWarning where no path leads from some leaf of λ
      through one step to L_val.
    """
    return online_last_step(_METHOD, problem)
