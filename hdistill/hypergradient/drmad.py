"""DrMAD: reverse mode along a straight line between the first and the last weights."""

import jax
import jax.numpy as jnp

from hdistill.hypergradient.backward import backward
from hdistill.hypergradient.base import ALL, Arguments, Hypergradient, OfflineInfo, run_offline
from hdistill.problem import run
from hdistill.products import outer_pullback
from hdistill.reach import unchanged
from hdistill.tree import dtype_of, is_real


def drmad(
    problem, hparams, weights, batches, outer_batch, *, horizon=None, return_info=False
) -> Hypergradient | tuple[Hypergradient, OfflineInfo]:
    """g = g^FO + Σ_t α_T Â_T … Â_{t+1} B̂_t, where the trajectory is taken for a straight line.

    Â_t and B̂_t are the Jacobians of Φ(·, λ; D_t) at ŵ_{t-1} = (1 - (t-1)/T) w_0 + ((t-1)/T) w_T.

    Memory is constant in T: the trajectory is interpolated, never stored. The exception is what
    takes no derivative and changes from step to step, such as a step counter or a key: of such
    leaves those of all T steps are stored (4 bytes a step for a counter), because between two of
    them there is nothing. Exact where the true trajectory is a straight line walked at constant
    speed.

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
    arguments = Arguments(problem, hparams, weights, batches, outer_batch, horizon)
    return run_offline(_drmad, "drmad", ALL, arguments, return_info)


def _drmad(problem, hparams, weights, batch_at, horizon, outer_batch):
    final, point_at = straight_line(problem, hparams, weights, batch_at, horizon)
    loss, alpha, first_order = outer_pullback(problem, final, hparams, outer_batch)
    _, second_order, _ = backward(problem, hparams, point_at, batch_at, horizon, alpha)
    info = OfflineInfo(final, loss, 2 * horizon - 1)
    return Hypergradient(first_order, second_order), info


def straight_line(problem, hparams, weights, batch_at, horizon: int):
    """Runs the inner optimisation. Returns w_T and t -> ŵ_t = (1 - t/T) w_0 + (t/T) w_T.

    t = 0..T here is the paper's t - 1. Leaves that take no derivative (step counters, keys) are
    those of the true w_t: w_0's where Φ hands them on as they are, and stored elsewhere.
    """
    batch = jax.eval_shape(batch_at, jnp.zeros((), jnp.int32))
    same = unchanged(problem, hparams, weights, batch)
    stored = [not (is_real(leaf) or same) for leaf, same in zip(jax.tree.leaves(weights), same)]

    def keep(weights):
        return [leaf for leaf, chosen in zip(jax.tree.leaves(weights), stored) if chosen]

    final, steps = run(problem, hparams, weights, batch_at, horizon, keep=keep)

    def point_at(t):
        true = iter(jax.tree.map(lambda x: x[t], steps))

        def between(a, b, stored):
            if is_real(a):
                wide = jnp.promote_types(dtype_of(a), jnp.float32)  # half precision counts to 256
                share = (jnp.asarray(t, wide) / horizon).astype(dtype_of(a))
                return (1 - share) * a + share * b
            return next(true) if stored else a

        ends = zip(jax.tree.leaves(weights), jax.tree.leaves(final), stored)
        return jax.tree.unflatten(jax.tree.structure(weights), [between(*x) for x in ends])

    return final, point_at
