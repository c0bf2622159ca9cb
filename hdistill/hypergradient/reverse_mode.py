"""Reverse mode (RMD): exact, by the stored trajectory; plain, checkpointed or truncated."""

import math
from typing import Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
import optax

from hdistill.checks.values import Signature, check_count, check_flag, check_memory
from hdistill.hypergradient.backward import Pulled, backward
from hdistill.hypergradient.estimator import (
    Estimator,
    Hypergradient,
    Moved,
    make_estimator,
    no_products,
    shares_hparams,
    spend,
)
from hdistill.hypergradient.offline_method import (
    ALL,
    Arguments,
    OfflineInfo,
    run_offline,
)
from hdistill.hypergradient.outer_losses import OuterLosses
from hdistill.hypergradient.snapshots import schedule, with_snapshots
from hdistill.problem import InnerRun, Problem, PyTree
from hdistill.products import inner_pullback, outer_pullback
from hdistill.tree import like, nbytes, wide


@overload
def reverse_mode(
    problem: Problem,
    hparams: PyTree,
    weights: PyTree,
    batches: PyTree,
    outer_batch: PyTree,
    *,
    checkpoint: bool = ...,
    snapshots: int | None = ...,
    window: int | None = ...,
    every: int | None = ...,
    horizon: int | None = ...,
    return_info: Literal[False] = ...,
) -> Hypergradient: ...


@overload
def reverse_mode(
    problem: Problem,
    hparams: PyTree,
    weights: PyTree,
    batches: PyTree,
    outer_batch: PyTree,
    *,
    checkpoint: bool = ...,
    snapshots: int | None = ...,
    window: int | None = ...,
    every: int | None = ...,
    horizon: int | None = ...,
    return_info: Literal[True],
) -> tuple[Hypergradient, OfflineInfo]: ...


@shares_hparams
def reverse_mode(
    problem,
    hparams,
    weights,
    batches,
    outer_batch,
    *,
    checkpoint: bool = False,
    snapshots: int | None = None,
    window: int | None = None,
    every: int | None = None,
    horizon=None,
    return_info=False,
) -> Hypergradient | tuple[Hypergradient, OfflineInfo]:
    """g = g^FO + Σ_t α_T A_T … A_{t+1} B_t, exact, or over the last `window` steps.

    Plain, the weights of every step are stored (and nothing else: Φ runs again on the way back).
    With `checkpoint`, those of every √T-th step, and each stretch runs forward twice: about 2√T
    weights in memory, and 2T forward steps, nearly the fewest at that memory. With `snapshots=s`,
    those of s steps, w_0 among them, whatever T is (`hdistill.hypergradient.snapshots`):

        snapshots, T = 1,000      5    10    20    50
        forward steps / T       6.3   3.6   2.7   1.9

    which is the fewest possible, r T - C(s+r, s+1) + 1 with r the least number for which
    C(s+r, s) >= T (Griewank and Walther 2000). With `window=K`, the K last (Shaban et
    al.'s truncated back-propagation).

    With `every=n` it is the derivative of the sum of the outer losses of an online run at fixed λ,
    Σ_j L_val(w_jn(λ), λ) for j = 1..m, m = ⌊T / n⌋, in the same one pass back: the cotangent of
    each loss is added on the way.

        for t = mn..1:  α ← α + ∂L_val(w_t, λ)/∂w where n divides t;  g ← g + α B_t;  α ← α A_t

    Steps after w_mn earn nothing; with a window, only the losses and steps of the last K count.

    References:
      Maclaurin et al., "Gradient-based Hyperparameter Optimization through Reversible Learning",
      ICML 2015; Shaban et al., "Truncated Back-propagation for Bilevel Optimization", AISTATS 2019.

    Examples:
      >>> g = hd.offline.reverse_mode(problem, hparams, weights, batches, outer_batch, horizon=20)
      >>> print(g.total)
      [-0.21  0.08  0.66]
      >>> # The sum of the losses after steps 5, 10, 15 and 20, all in one pass back:
      >>> losses = lambda t: outer_batch
      >>> g, info = hd.offline.reverse_mode(
      ...     problem, hparams, weights, batches, losses, horizon=20, every=5, return_info=True
      ... )
      >>> print(g.total, info.outer_loss, info.products)
      [-0.05  0.11 -0.93] [2.26 1.75 0.47 1.85] 39

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      outer_batch: the batch of L_val; with `every`, stacked [m, ...], or a function of the inner
        step, asked at t = n-1, 2n-1, ...
      checkpoint: keep about 2√T weights rather than T.
      snapshots: s >= 2, keep s weights (and one more to work with) whatever T is; not with
        `checkpoint`.
      window: K, how many of the last steps to go back through; None for all. More than T is T.
      every: n, inner steps between two outer losses; None for L_val at w_T only.
      horizon: T, where `batches` does not tell it.
      return_info: also return an `OfflineInfo`.

    Returns:
      A `Hypergradient`; with `return_info`, a pair with the info, whose `start` is the exact
      derivative in w_0 (None with a window). 2·min(K, T) - 1 products; with
      `every`, 2·(min(K, T) - (T - mn)) - 1.

    Raises:
      ValueError: window < 1, snapshots < 2 or beside checkpoint, every < 1 or > T, a window without
        any outer loss, or arguments that do not fit together; see `hdistill.checks`.

    Warns:
      ZeroHypergradientWarning: no path leads from some leaf of λ to L_val.
    """
    if window is not None:
        window = check_count("window", window)
    checkpoint = check_flag("checkpoint", checkpoint)
    if snapshots is not None:
        snapshots = check_count("snapshots", snapshots, least=2)
        if checkpoint:
            raise ValueError(f"snapshots={snapshots}: expected None beside checkpoint=True")
    arguments = Arguments(problem, hparams, weights, batches, outer_batch, horizon, every)
    depth, options = window or ALL, (checkpoint, snapshots, window)
    return run_offline(_reverse_mode, "reverse_mode", depth, arguments, return_info, *options)


def _reverse_mode(
    inner: InnerRun,
    losses: OuterLosses,
    checkpoint: bool,
    snapshots: int | None,
    window: int | None,
):
    hparams, horizon = inner.hparams, inner.horizon
    begin = 0 if window is None else max(horizon - window, 0)
    if begin >= losses.end:
        raise ValueError(
            f"window={window}: the last outer loss is after step {losses.end} of horizon={horizon} "
            f"(every={losses.every}); expected a window of more than {horizon - losses.end}"
        )
    start, early = losses.watch(inner, begin)
    sweep = _checkpointed if checkpoint else stored
    if snapshots is not None and losses.end - begin > 1:
        sweep = with_snapshots(snapshots)
    last, pull = sweep(inner.stretch(start, begin, losses.end - begin))
    loss, alpha, first_order = losses.pullback(inner, last, losses.end)

    def add_loss(first_order, t, weights, batch, alpha, total):
        value, alpha, first_order = losses.add(inner, weights, t, alpha, first_order, begin)
        return first_order, alpha, value

    visit = add_loss if losses.number > 1 else None
    pulled = pull(alpha, optax.tree.zeros_like(wide(hparams)), first_order, visit)
    final, _ = inner.stretch(last, losses.end, horizon - losses.end).steps()
    between = None  # the losses from `begin` to the last; outputs[i] is of w_(begin + i)
    if visit:
        between = pulled.outputs[losses.every - begin % losses.every :: losses.every]
    values, products = losses.info(early, between, loss), 2 * (losses.end - begin) - 1
    info = OfflineInfo(final, values, products, start=None if window else pulled.alpha)
    again = losses.end - begin if checkpoint else 0
    if snapshots is not None and losses.end - begin > 1:
        again = schedule(losses.end - begin, snapshots).steps - (losses.end - begin)
    info = info._replace(steps=horizon + again)
    return Hypergradient(pulled.carry, like(pulled.total, hparams)), info


def stored(inner: InnerRun):
    """Runs the steps, keeping every weight.

    Returns:
      The last weights, and (α, g, carry, visit) -> `Pulled`.
    """
    size = inner.horizon * nbytes(inner.weights)
    check_memory("horizon", inner.horizon, "the weights of every step", size)
    final, trajectory = inner.steps(keep=True)

    def pull(alpha, total, carry, visit):
        def point_at(t):
            return jax.tree.map(lambda x: x[t - inner.first], trajectory)

        return backward(inner, point_at, alpha, total, visit, carry)

    return final, pull


def _checkpointed(inner: InnerRun):
    """Like `stored`, keeping the weights at which each of about √T segments starts.

    The steps that √T does not divide go first, as a short segment.
    """
    length = math.isqrt(inner.horizon - 1) + 1  # ceil(√T)
    count, rest = divmod(inner.horizon, length)
    short = inner._replace(horizon=rest)
    weights, _ = short.steps()
    begins = inner.first + rest + length * jnp.arange(count, dtype=jnp.int32)

    def forward(weights, begin):
        return inner.stretch(weights, begin, length).steps()[0], weights

    final, starts = jax.lax.scan(forward, weights, begins)

    def pull(alpha, total, carry, visit):
        def pull_segment(ends, at):
            weights, begin = at
            _, pull = stored(inner.stretch(weights, begin, length))
            *ends, outputs = pull(*ends, visit)
            return tuple(ends), outputs

        ends, outputs = jax.lax.scan(
            pull_segment, (alpha, total, carry), (starts, begins), reverse=True
        )
        outputs = jax.tree.map(lambda x: x.reshape(count * length, *x.shape[2:]), outputs)
        if not rest:
            return Pulled(*ends, outputs=outputs)
        _, pull = stored(short)
        before = pull(*ends, visit)
        both = jax.tree.map(lambda *x: jnp.concatenate(x), before.outputs, outputs)
        return before._replace(outputs=both)

    return final, pull


class ReverseModeState(NamedTuple):
    """State of online reverse mode: a ring of the last K transitions."""

    signature: tuple[Signature, Signature, Moved]  # of weights and hparams; which leaves move
    products: jax.Array  # int32 []
    weights: object  # w_{t-1} of the last K steps, each leaf [K, ...]
    batches: object  # D_t of the last K steps, each leaf [K, ...]
    place: jax.Array  # where in the ring the next transition goes, int32 []
    span: jax.Array  # min(t, K), int32 []


def online_reverse_mode(problem, *, window: int) -> Estimator:
    """Exact reverse mode through the last K = min(t, `window`) inner steps, after every step t.

    g_t = dL_val(w_t(λ), λ)/dλ at the present λ: the last K steps are run again with it from
    w_{t-K}, then pulled back through. With `window` = T this is `offline.reverse_mode` over the
    steps so far, the exact online hypergradient that the online estimators are held against. K
    inner steps and 2K - 1 products at step t; memory grows with `window`, which keeps so many
    weights and batches.

    While λ moves, w_t(λ) differs a little from the w_t of the run, whose steps had earlier λs; α_t
    and g_t^FO are taken at w_t(λ). The derivative along the trajectory as it was run is
    `online.forward_mode`'s. (A and B at the present λ along the trajectory as it was run would be
    the derivative of neither; in the sinusoid study that diverges.)

    Examples:
      >>> estimator = hd.online.reverse_mode(problem, window=10)
      >>> state = estimator.init(weights, hparams, batch)
      >>> g, state = estimator.step(state, transition, jax.random.key(0))
      >>> print(g.total)
      [-0.03 -0.05 -0.05]

    Args:
      problem: Φ and L_val.
      window: K >= 1, how many steps to go back through.

    Raises:
      ValueError: window < 1.
    """
    window = check_count("window", window)

    def init(signature, weights, hparams, batch):
        size = window * nbytes((weights, batch))
        check_memory("window", window, "so many weights and batches", size)

        def ring(x):
            return jnp.broadcast_to(jnp.asarray(x)[None], (window, *jnp.shape(x)))

        none = jnp.zeros((), jnp.int32)
        rings = jax.tree.map(ring, (weights, batch))
        return ReverseModeState(signature, no_products(), *rings, none, none)

    def observe(problem, state, transition, key):
        def put(name, ring, item):
            Signature.of(jax.tree.map(lambda r: r[0], ring)).check(name, item)
            return jax.tree.map(lambda r, x: r.at[state.place].set(x), ring, item)

        return state._replace(
            weights=put("transition.previous", state.weights, transition.previous),
            batches=put("transition.batch", state.batches, transition.batch),
            place=(state.place + 1) % window,
            span=jnp.minimum(state.span + 1, window),
        )

    def estimate(problem, state, transition):
        hparams, outer_batch = transition.hparams, transition.outer_batch
        span = state.span

        def at(i):  # the place of the i-th of the last `span` steps
            return (state.place - span + i) % window

        def take(ring, i):
            return jax.tree.map(lambda r: r[at(i)], ring)

        def advance(i, carry):
            weights, ring = carry
            ring = jax.tree.map(lambda r, x: r.at[at(i)].set(x), ring, weights)
            return problem.update(weights, hparams, take(state.batches, i)), ring

        def pull(s, carry):
            alpha, total = carry
            point, batch = (take(r, span - 1 - s) for r in (trajectory, state.batches))
            alpha, direct = inner_pullback(problem, point, hparams, batch, alpha)
            return alpha, optax.tree.add(total, wide(direct))

        start = (take(state.weights, 0), state.weights)
        current, trajectory = jax.lax.fori_loop(0, span, advance, start)
        _, alpha, first_order = outer_pullback(problem, current, hparams, outer_batch)
        zero = optax.tree.zeros_like(wide(hparams))
        _, total = jax.lax.fori_loop(0, span, pull, (alpha, zero))
        second_order = like(total, hparams)
        state = state._replace(products=spend(state.products, 2 * span - 1))
        return Hypergradient(first_order, second_order), state

    return make_estimator(problem, window, "reverse_mode", init, observe, estimate)
