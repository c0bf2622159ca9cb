"""Forward mode (FMD): dw/dλ carried along the inner optimisation, whole or along directions."""

from typing import Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from hdistill.checks.values import Signature, check_count, check_key
from hdistill.devices import vary_like
from hdistill.hypergradient.estimator import (
    Estimator,
    Hypergradient,
    Moved,
    make_estimator,
    no_products,
    spend,
)
from hdistill.hypergradient.offline_method import (
    ALL,
    Arguments,
    OfflineInfo,
    run_offline,
)
from hdistill.hypergradient.outer_losses import OuterLosses
from hdistill.problem import InnerRun, Problem, PyTree
from hdistill.products import differentiable, outer_pullback
from hdistill.tree import dtype_of, split


class ForwardModeState(NamedTuple):
    """State of online forward mode."""

    signature: tuple[Signature, Signature, Moved]  # of weights and hparams; which leaves move
    products: jax.Array  # int32 []
    jacobian: list  # Z = dw/dλ, or Z v_i: each real leaf of the weights, [columns, *leaf]
    directions: jax.Array | None  # v_i, floating [k, number of λ]; None of all columns


@overload
def forward_mode(
    problem: Problem,
    hparams: PyTree,
    weights: PyTree,
    batches: PyTree,
    outer_batch: PyTree,
    *,
    directions: int | None = ...,
    key: jax.Array | None = ...,
    horizon: int | None = ...,
    return_info: Literal[False] = ...,
) -> Hypergradient: ...


@overload
def forward_mode(
    problem: Problem,
    hparams: PyTree,
    weights: PyTree,
    batches: PyTree,
    outer_batch: PyTree,
    *,
    directions: int | None = ...,
    key: jax.Array | None = ...,
    horizon: int | None = ...,
    return_info: Literal[True],
) -> tuple[Hypergradient, OfflineInfo]: ...


def forward_mode(
    problem,
    hparams,
    weights,
    batches,
    outer_batch,
    *,
    directions: int | None = None,
    key=None,
    horizon=None,
    return_info=False,
) -> Hypergradient | tuple[Hypergradient, OfflineInfo]:
    """Exact: Z_0 = 0, Z_t = A_t Z_{t-1} + B_t, g = g^FO + α_T Z_T.

    Memory is constant in T but holds Z, (number of λ) x (number of weights): for few λ.

    With `directions=k` it is an unbiased estimate for any number n of λ, that keeps k copies of the
    weights, whatever n and T are. Along k directions v_i of ±1, drawn once for all steps,

        g = g^FO + 1/k Σ_i (α_T Z_T v_i) v_i,   Z_t v_i = A_t (Z_{t-1} v_i) + B_t v_i

    Its mean is exact, because the mean of v vᵀ is the identity; E‖error‖² = (n - 1)/k ‖g^SO‖², so
    that one estimate is mostly noise where n is much above k, and many steps of λ average it.

    References:
      Franceschi et al., "Forward and Reverse Gradient-Based Hyperparameter Optimization",
      ICML 2017; with directions, FG²U: Shen et al., "Memory-Efficient Gradient Unrolling for
      Large-Scale Bi-level Optimization", NeurIPS 2024.

    Examples:
      >>> g = hd.offline.forward_mode(problem, hparams, weights, batches, outer_batch, horizon=20)
      >>> print(g.total)
      [-0.21  0.08  0.66]
      >>> # Along 50 random directions, more than there are λ: near to it, for any number of λ.
      >>> rough = functools.partial(hd.offline.forward_mode, directions=50, key=jax.random.key(0))
      >>> g = rough(problem, hparams, weights, batches, outer_batch, horizon=20)
      >>> print(g.total)
      [-0.13  0.27  0.66]

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      outer_batch: the batch of L_val.
      directions: k >= 1, random directions; None for all of λ, exact.
      key: typed PRNG key that draws them; None without them.
      horizon: T, where `batches` does not tell it.
      return_info: also return an `OfflineInfo`.

    Returns:
      A `Hypergradient`; with `return_info`, a pair with the info. T x (number of λ) products, or
      T x k.

    Raises:
      ValueError: directions without a key, or a key without them; arguments that do not fit
        together; see `hdistill.checks`.

    Warns:
      ZeroHypergradientWarning: no path leads from some leaf of λ to L_val.
    """
    if directions is None and key is not None:
        raise ValueError("key is given: expected None without directions, which it would draw")
    if directions is not None:
        directions = check_count("directions", directions)
        if key is None:
            raise ValueError(f"key=None: expected a typed PRNG key, for directions={directions}")
        check_key(key)
    arguments = Arguments(problem, hparams, weights, batches, outer_batch, horizon)
    own = {"arrays": () if key is None else (key,)}
    return run_offline(
        _forward_mode, "forward_mode", ALL, arguments, return_info, directions, **own
    )


def _forward_mode(inner: InnerRun, losses: OuterLosses, *given):
    *keys, number = given
    problem, hparams = inner.problem, inner.hparams
    directions = _draw(keys[0], number, hparams) if keys else None

    def body(carry, _):
        t, weights, jacobian = carry
        jacobian = _push(problem, weights, hparams, inner.batch_at(t), jacobian, directions)
        return (t + 1, inner.step(weights, t), jacobian), None

    columns = _columns(hparams, number)
    start = (jnp.zeros((), jnp.int32), inner.weights, _zero(inner.weights, hparams, columns))
    (_, final, jacobian), _ = jax.lax.scan(body, start, length=inner.horizon)
    pulled = losses.pullback(inner, final, inner.horizon)
    loss, result = _contract(pulled, hparams, jacobian, directions)
    return result, OfflineInfo(final, loss, inner.horizon * columns)


def online_forward_mode(problem, *, directions: int | None = None) -> Estimator:
    """Exact forward mode after every inner step, Z carried in the state.

    While λ moves, each step's A and B are taken at the λ of that step (as in real-time recurrent
    learning). With `directions=k` it is an unbiased estimate that carries k copies of the weights,
    whatever the number of λ: the directions are drawn by the first step's key and stay. See
    `hdistill.offline.forward_mode`.

    Examples:
      >>> estimator = hd.online.forward_mode(problem)
      >>> state = estimator.init(weights, hparams, batch)
      >>> g, state = estimator.step(state, transition, jax.random.key(0))
      >>> print(g.total)
      [-0.03 -0.05 -0.05]

    Args:
      problem: Φ and L_val.
      directions: k >= 1, random directions; None for all of λ, exact.

    Returns:
      An `Estimator`. Its state holds a copy of the weights for each scalar of λ, or for each
      direction; its step raises ValueError, while tracing, for arguments that do not fit together.
    """
    if directions is not None:
        directions = check_count("directions", directions)

    def init(signature, weights, hparams, batch):
        columns = _columns(hparams, directions)
        jacobian, drawn = _zero(weights, hparams, columns), None
        if directions is not None:
            flat, _ = ravel_pytree(hparams)
            drawn = vary_like(jnp.zeros((columns, flat.size), flat.dtype), (weights, hparams))
        return ForwardModeState(signature, no_products(), jacobian, drawn)

    def observe(problem, state, transition, key):
        previous, _, hparams, batch, _ = transition
        drawn = state.directions
        if drawn is not None:
            check_key(key)
            drawn = jnp.where(state.products == 0, _draw(key, len(drawn), hparams), drawn)
        jacobian = _push(problem, previous, hparams, batch, state.jacobian, drawn)
        products = spend(state.products, _columns(hparams, directions))
        return state._replace(jacobian=jacobian, products=products, directions=drawn)

    def estimate(problem, state, transition):
        _, current, hparams, _, outer_batch = transition
        pulled = outer_pullback(problem, current, hparams, outer_batch)
        return _contract(pulled, hparams, state.jacobian, state.directions)[1], state

    return make_estimator(problem, ALL, "forward_mode", init, observe, estimate)


def _columns(hparams, directions: int | None) -> int:
    """Counts the columns that are carried: the directions, or the scalars of λ."""
    return directions or sum(jnp.size(x) for x in jax.tree.leaves(hparams))


def _draw(key, directions: int, hparams):
    """v_i, ±1 [k, number of λ]."""
    flat, _ = ravel_pytree(hparams)
    return jax.random.rademacher(key, (directions, flat.size), flat.dtype)


def _zero(weights, hparams, columns: int):
    zero = [jnp.zeros((columns, *jnp.shape(x)), dtype_of(x)) for x in split(weights)[0]]
    return vary_like(zero, (weights, hparams))


def _push(problem, weights, hparams, batch, jacobian, directions):
    """A Z + B, a Jacobian-vector product for each scalar of λ, or along each direction."""
    phi, real = differentiable(problem, weights, batch)
    flat, unravel = ravel_pytree(hparams)

    def column(along, tangent):
        if directions is None:
            along = jax.nn.one_hot(along, flat.size, dtype=flat.dtype)
        return jax.jvp(phi, (real, hparams), (tangent, vary_like(unravel(along), hparams)))[1]

    return jax.vmap(column)(jnp.arange(flat.size) if directions is None else directions, jacobian)


def _contract(pulled, hparams, jacobian, directions):
    """(L_val, hypergradient), from what `outer_pullback` returns and Z."""
    loss, alpha, first_order = pulled
    flat, unravel = ravel_pytree(hparams)
    columns = flat.size if directions is None else len(directions)
    parts = [z.reshape(columns, -1) @ a.reshape(-1) for z, a in zip(jacobian, alpha)]
    response = sum(parts, start=jnp.zeros(columns, flat.dtype))
    if directions is not None:
        response = response @ directions / columns
    return loss, Hypergradient(first_order, unravel(response.astype(flat.dtype)))
