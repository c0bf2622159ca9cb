"""DrMAD: reverse mode along a line between the first and the last weights, straight or bent."""

from typing import Literal, overload

import jax

from hdistill.checks.values import check_count
from hdistill.hypergradient.backward import backward
from hdistill.hypergradient.drmad_line import walk
from hdistill.hypergradient.estimator import Hypergradient, shares_hparams
from hdistill.hypergradient.offline_method import (
    ALL,
    Arguments,
    OfflineInfo,
    run_offline,
)
from hdistill.hypergradient.outer_losses import OuterLosses
from hdistill.problem import InnerRun, Problem, PyTree
from hdistill.tree import like


@overload
def drmad(
    problem: Problem,
    hparams: PyTree,
    weights: PyTree,
    batches: PyTree,
    outer_batch: PyTree,
    *,
    anchors: int = ...,
    every: int | None = ...,
    horizon: int | None = ...,
    return_info: Literal[False] = ...,
) -> Hypergradient: ...


@overload
def drmad(
    problem: Problem,
    hparams: PyTree,
    weights: PyTree,
    batches: PyTree,
    outer_batch: PyTree,
    *,
    anchors: int = ...,
    every: int | None = ...,
    horizon: int | None = ...,
    return_info: Literal[True],
) -> tuple[Hypergradient, OfflineInfo]: ...


@shares_hparams
def drmad(
    problem,
    hparams,
    weights,
    batches,
    outer_batch,
    *,
    anchors: int = 1,
    every: int | None = None,
    horizon=None,
    return_info=False,
) -> Hypergradient | tuple[Hypergradient, OfflineInfo]:
    """g = g^FO + Σ_t α_T Â_T … Â_{t+1} B̂_t, where the trajectory is taken for a straight line.

    Â_t and B̂_t are the Jacobians of Φ(·, λ; D_t) at ŵ_{t-1} = (1 - (t-1)/T) w_0 + ((t-1)/T) w_T.
    With `anchors=k` the line is bent: it runs through w_0 and the weights after steps ⌈jT/k⌉,
    j = 1..k. With k = T it is the trajectory, and the result is exact.

    With `every=n` the outer losses after steps n, 2n, ..., mn are summed, m = ⌊T / n⌋, as in
    `hd.offline.reverse_mode`, in the same one pass back: each loss and its gradients are taken at
    the true w_jn, on the way forward, and its cotangent is added on the way back.

    Memory: k weights, whatever T is, and with `every` m - 1 cotangents besides, only of those
    leaves that L_val depends on. The exception is what takes no derivative and changes from step to
    step, such as a step counter or a key: no line leads from one to the next, so that such
    leaves of all T steps are stored (4 bytes a step for a counter). Exact where the true trajectory
    is a straight line walked at constant speed.

    Warning: `anchors` and `every` are not the paper's; their defaults are.

    References:
      Fu et al., "DrMAD: Distilling Reverse-Mode Automatic Differentiation for Optimizing
      Hyperparameters of Deep Neural Networks", IJCAI 2016; Eq. 16 of Lee et al. 2022.

    Examples:
      >>> g = hd.offline.drmad(problem, hparams, weights, batches, outer_batch, horizon=20)
      >>> print(g.total)
      [-0.76 -0.07  0.5 ]
      >>> # A line bent at four weights is nearer to the trajectory:
      >>> bent = functools.partial(hd.offline.drmad, anchors=4)
      >>> g = bent(problem, hparams, weights, batches, outer_batch, horizon=20)
      >>> print(g.total)
      [-0.27  0.07  0.65]

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`, called again
        on the way back.
      outer_batch: the batch of L_val; with `every`, stacked [m, ...], or a function of the inner
        step, asked at t = n-1, 2n-1, ...
      anchors: k >= 1, straight pieces of the line.
      every: n, inner steps between two outer losses; None for L_val at w_T only.
      horizon: T, where `batches` does not tell it.
      return_info: also return an `OfflineInfo`.

    Returns:
      A `Hypergradient`; with `return_info`, a pair with the info. 2T - 1 products; with `every`,
      2mn - 1.

    Raises:
      ValueError: anchors or every < 1 or > T, or arguments that do not fit together; see
        `hdistill.checks`.

    Warns:
      ZeroHypergradientWarning: no path leads from some leaf of λ to L_val.
    """
    anchors = check_count("anchors", anchors)
    arguments = Arguments(problem, hparams, weights, batches, outer_batch, horizon, every)
    return run_offline(_drmad, "drmad", ALL, arguments, return_info, anchors)


def _drmad(inner: InnerRun, losses: OuterLosses, anchors: int):
    if anchors > inner.horizon:
        raise ValueError(f"anchors={anchors}: expected at most horizon={inner.horizon}")
    walked = walk(inner, losses, anchors)

    def add_loss(carry, t, weights, batch, alpha, total):
        def add():
            return walked.add_alpha(t // losses.every - 1, alpha)

        return carry, jax.lax.cond(losses.falls_at(t), add, lambda: alpha), None

    visit = add_loss if losses.number > 1 else None
    inner = inner._replace(horizon=losses.end)
    pulled = backward(inner, walked.point_at, walked.alpha, visit=visit)
    values = losses.info(walked.earlier_losses, walked.loss)
    info = OfflineInfo(walked.final, values, 2 * losses.end - 1)
    return Hypergradient(walked.first_order, like(pulled.total, inner.hparams)), info
