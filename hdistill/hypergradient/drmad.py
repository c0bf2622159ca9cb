"""DrMAD: reverse mode along a straight line between the first and the last weights."""

import jax
import jax.numpy as jnp

from hdistill.hypergradient.backward import backward
from hdistill.hypergradient.base import Hypergradient, OfflineInfo, open_offline
from hdistill.problem import run
from hdistill.products import outer_pullback
from hdistill.tree import dtype_of, is_real


def drmad(
    problem, hparams, weights, batches, outer_batch, *, horizon=None, return_info=False
) -> Hypergradient | tuple[Hypergradient, OfflineInfo]:
    """g = g^FO + Σ_t α_T Â_T … Â_{t+1} B̂_t, where the trajectory is taken for a straight line.

    Â_t and B̂_t are the Jacobians of Φ(·, λ; D_t) at ŵ_{t-1} = (1 - (t-1)/T) w_0 + ((t-1)/T) w_T.

    Memory is constant in T: the trajectory is interpolated, never stored. Exact where the true
    trajectory is a straight line walked at constant speed.

    References:
      Fu et al., "DrMAD: Distilling Reverse-Mode Automatic Differentiation for Optimizing
      Hyperparameters of Deep Neural Networks", IJCAI 2016; Eq. 16 of Lee et al. 2022.

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`, called again
        on the way back.
      outer_batch: the batch of L_val.
      horizon: T, where `batches` does not tell it.
      return_info: also return an `OfflineInfo`.

    Returns:
      A `Hypergradient`; with `return_info`, a pair with the info. 2T - 1 products.

    Raises:
      ValueError: arguments that do not fit together; see `hdistill.checks`.

    Warns:
      ZeroHypergradientWarning: no path leads from some leaf of λ to L_val.
    """
    batch_at, horizon = open_offline(
        problem, hparams, weights, batches, outer_batch, horizon, None, "drmad"
    )
    steps = jnp.arange(horizon)
    final, _ = run(problem, hparams, weights, batch_at, steps)
    loss, alpha, first_order = outer_pullback(problem, final, hparams, outer_batch)
    point_at = line(weights, final, horizon)
    _, second_order, _ = backward(problem, hparams, point_at, batch_at, steps, alpha)
    result = Hypergradient(first_order, second_order)
    info = OfflineInfo(final, loss, 2 * horizon - 1)
    return (result, info) if return_info else result


def line(first, last, horizon: int):
    """t -> (1 - t/T) w_0 + (t/T) w_T, for t = 0..T (t here is the paper's t - 1).

    Signed integer leaves (step counters) are interpolated and rounded, which is exact for a
    counter; other leaves (keys, flags) stay those of w_0.
    """

    def point_at(t):
        def between(a, b):
            if is_real(a):
                share = jnp.asarray(t, dtype_of(a)) / horizon
                return (1 - share) * a + share * b
            if jnp.issubdtype(dtype_of(a), jnp.signedinteger):
                return a + ((b - a) * t + horizon // 2).astype(dtype_of(a)) // horizon
            return a

        return jax.tree.map(between, first, last)

    return point_at
