"""Reverse mode (RMD): exact, by the stored trajectory; plain, checkpointed or truncated."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.checks import Signature, check_count
from hdistill.hypergradient.backward import backward
from hdistill.hypergradient.base import (
    Estimator,
    Hypergradient,
    OfflineInfo,
    make_estimator,
    open_offline,
)
from hdistill.problem import run
from hdistill.products import inner_pullback, outer_pullback


def reverse_mode(
    problem,
    hparams,
    weights,
    batches,
    outer_batch,
    *,
    checkpoint: bool = False,
    window: int | None = None,
    horizon=None,
    return_info=False,
) -> Hypergradient | tuple[Hypergradient, OfflineInfo]:
    """g = g^FO + Σ_t α_T A_T … A_{t+1} B_t, exact, or over the last `window` steps.

    Plain, the weights of every step are stored (and nothing else: Φ runs again on the way back).
    With `checkpoint`, those of every √T-th step, and each stretch runs forward twice: about 2√T
    weights in memory. With `window=K` (Shaban et al.'s truncated back-propagation), the K last.

    References:
      Maclaurin et al., "Gradient-based Hyperparameter Optimization through Reversible Learning",
      ICML 2015; Shaban et al., "Truncated Back-propagation for Bilevel Optimization", AISTATS 2019.

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      outer_batch: the batch of L_val.
      checkpoint: keep about 2√T weights rather than T.
      window: K, how many of the last steps to go back through; None for all. More than T is T.
      horizon: T, where `batches` does not tell it.
      return_info: also return an `OfflineInfo`.

    Returns:
      A `Hypergradient`; with `return_info`, a pair with the info. 2·min(K, T) - 1 products.

    Raises:
      ValueError: window < 1, or arguments that do not fit together; see `hdistill.checks`.

    Warns:
      ZeroHypergradientWarning: no path leads from some leaf of λ to L_val.
    """
    if window is not None:
        window = check_count("window", window)
    batch_at, horizon = open_offline(
        problem,
        hparams,
        weights,
        batches,
        outer_batch,
        horizon,
        window,
        "reverse_mode",
    )
    span = horizon if window is None else min(window, horizon)
    start, _ = run(problem, hparams, weights, batch_at, jnp.arange(horizon - span))
    steps = jnp.arange(horizon - span, horizon)
    sweep = _checkpointed if checkpoint else _stored
    final, pull = sweep(problem, hparams, start, batch_at, steps)
    loss, alpha, first_order = outer_pullback(problem, final, hparams, outer_batch)
    _, second_order = pull(alpha, optax.tree.zeros_like(hparams))
    result = Hypergradient(first_order, second_order)
    info = OfflineInfo(final, loss, 2 * span - 1)
    return (result, info) if return_info else result


def _stored(problem, hparams, start, batch_at, steps):
    """Runs the steps, keeping every weight. Returns the last weights and (α, g) -> (α, g)."""
    final, trajectory = run(problem, hparams, start, batch_at, steps, keep=True)

    def pull(alpha, total):
        def point_at(t):
            return jax.tree.map(lambda x: x[t - steps[0]], trajectory)

        return backward(problem, hparams, point_at, batch_at, steps, alpha, total)[:2]

    return final, pull


def _checkpointed(problem, hparams, start, batch_at, steps):
    """Like `_stored`, keeping the weights at which each of about √T segments starts.

    What √T does not divide goes first, as a short segment of its own.
    """
    length = math.isqrt(steps.size - 1) + 1  # ceil(√T)
    rest = steps.size % length
    segments = steps[rest:].reshape(-1, length)
    first, _ = run(problem, hparams, start, batch_at, steps[:rest])

    def forward(weights, segment):
        return run(problem, hparams, weights, batch_at, segment)[0], weights

    final, starts = jax.lax.scan(forward, first, segments)

    def pull_segment(carry, at):
        weights, segment = at
        return _stored(problem, hparams, weights, batch_at, segment)[1](*carry), None

    def pull(alpha, total):
        carry, _ = jax.lax.scan(pull_segment, (alpha, total), (starts, segments), reverse=True)
        return pull_segment(carry, (start, steps[:rest]))[0] if rest else carry

    return final, pull


class ReverseModeState(NamedTuple):
    """State of online reverse mode: a ring of the last K transitions."""

    signature: tuple[Signature, Signature]  # of (weights, hparams)
    products: jax.Array  # int32 []
    weights: object  # w_{t-1} of the last K steps, each leaf [K, ...]
    batches: object  # D_t of the last K steps, each leaf [K, ...]
    seen: jax.Array  # t, int32 []


def online_reverse_mode(problem, *, window: int) -> Estimator:
    """Exact reverse mode through the last K = min(t, `window`) inner steps, after every step t.

    g_t = dL_val(w_t(λ), λ)/dλ at the present λ: the last K steps are run again with it from
    w_{t-K}, then pulled back through. With `window` = T this is `offline.reverse_mode` over the
    steps so far, the exact online hypergradient that the online estimators are held against. K
    inner steps and 2K - 1 products at step t; memory grows with `window`, which keeps so many
    weights and batches.

    While λ moves, w_t(λ) is not quite the w_t that was reached with the λs of the time; α_t and
    g_t^FO are w_t(λ)'s. The derivative along the trajectory as it was run is
    `online.forward_mode`'s. (A and B at the present λ along the trajectory as it was run would be
    the derivative of neither; in the sinusoid study that diverges.)

    Args:
      problem: Φ and L_val.
      window: K >= 1, how many steps to go back through.

    Raises:
      ValueError: window < 1.
    """
    window = check_count("window", window)

    def init(signature, weights, hparams, batch):
        def ring(tree):
            return jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * window), tree)

        zero = jnp.zeros((), jnp.int32)
        return ReverseModeState(signature, zero, ring(weights), ring(batch), zero)

    def observe(state, transition, key):
        def put(ring, item):
            return jax.tree.map(lambda r, x: r.at[state.seen % window].set(x), ring, item)

        return state._replace(
            weights=put(state.weights, transition.previous),
            batches=put(state.batches, transition.batch),
            seen=state.seen + 1,
        )

    def estimate(state, transition):
        hparams, outer_batch = transition.hparams, transition.outer_batch
        span = jnp.minimum(state.seen, window)

        def take(ring, i):  # of the last `span` steps the i-th
            return jax.tree.map(lambda r: r[(state.seen - span + i) % window], ring)

        def advance(i, carry):
            weights, ring = carry
            at = (state.seen - span + i) % window
            ring = jax.tree.map(lambda r, x: r.at[at].set(x), ring, weights)
            return problem.update(weights, hparams, take(state.batches, i)), ring

        def pull(s, carry):
            alpha, total = carry
            point, batch = (take(r, span - 1 - s) for r in (trajectory, state.batches))
            alpha, direct = inner_pullback(problem, point, hparams, batch, alpha)
            return alpha, optax.tree.add(total, direct)

        start = (take(state.weights, 0), state.weights)
        current, trajectory = jax.lax.fori_loop(0, span, advance, start)
        _, alpha, first_order = outer_pullback(problem, current, hparams, outer_batch)
        zero = optax.tree.zeros_like(hparams)
        _, second_order = jax.lax.fori_loop(0, span, pull, (alpha, zero))
        state = state._replace(products=state.products + 2 * span - 1)
        return Hypergradient(first_order, second_order), state

    return make_estimator(problem, window, "reverse_mode", init, observe, estimate)
