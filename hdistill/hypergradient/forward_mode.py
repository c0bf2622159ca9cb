"""Forward mode (FMD): the Jacobian dw/dλ carried along the inner optimisation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from hdistill.checks.values import Signature
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
    offline_method,
    run_offline,
)
from hdistill.hypergradient.outer_losses import OuterLosses
from hdistill.problem import InnerRun
from hdistill.products import differentiable, outer_pullback
from hdistill.tree import dtype_of, split


class ForwardModeState(NamedTuple):
    """State of online forward mode."""

    signature: tuple[Signature, Signature, Moved]  # of weights and hparams; which leaves move
    products: jax.Array  # int32 []
    jacobian: list  # Z = dw/dλ: each floating-point leaf of the weights, [number of λ, *leaf]


@offline_method
def forward_mode(
    problem, hparams, weights, batches, outer_batch, *, horizon=None, return_info=False
) -> Hypergradient | tuple[Hypergradient, OfflineInfo]:
    """Exact: Z_0 = 0, Z_t = A_t Z_{t-1} + B_t, g = g^FO + α_T Z_T.

    Memory is constant in T but holds Z, (number of λ) x (number of weights): for few λ.

    References:
      Franceschi et al., "Forward and Reverse Gradient-Based Hyperparameter Optimization",
      ICML 2017.

    Examples:
      >>> g = hd.offline.forward_mode(problem, hparams, weights, batches, outer_batch, horizon=20)
      >>> print(g.total)
      [-0.21  0.08  0.66]

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      outer_batch: the batch of L_val.
      horizon: T, where `batches` does not tell it.
      return_info: also return an `OfflineInfo`.

    Returns:
      A `Hypergradient`; with `return_info`, a pair with the info. T x (number of λ) products.

    Raises:
      ValueError: arguments that do not fit together; see `hdistill.checks`.

    Warns:
      ZeroHypergradientWarning: no path leads from some leaf of λ to L_val.
    """
    arguments = Arguments(problem, hparams, weights, batches, outer_batch, horizon)
    return run_offline(_forward_mode, "forward_mode", ALL, arguments, return_info)


def _forward_mode(inner: InnerRun, losses: OuterLosses):
    problem, hparams = inner.problem, inner.hparams

    def body(carry, _):
        t, weights, jacobian = carry
        jacobian = _push(problem, weights, hparams, inner.batch_at(t), jacobian)
        return (t + 1, inner.step(weights, t), jacobian), None

    start = (jnp.zeros((), jnp.int32), inner.weights, _zero(inner.weights, hparams))
    (_, final, jacobian), _ = jax.lax.scan(body, start, length=inner.horizon)
    loss, result = _contract(losses.pullback(inner, final, inner.horizon), hparams, jacobian)
    return result, OfflineInfo(final, loss, inner.horizon * _count(hparams))


def online_forward_mode(problem) -> Estimator:
    """Exact forward mode after every inner step, Z carried in the state.

    While λ moves, each step's A and B are taken at the λ of that step (as in real-time recurrent
    learning). See `hdistill.offline.forward_mode`.

    Examples:
      >>> estimator = hd.online.forward_mode(problem)
      >>> state = estimator.init(weights, hparams, batch)
      >>> g, state = estimator.step(state, transition, jax.random.key(0))
      >>> print(g.total)
      [-0.03 -0.05 -0.05]

    Args:
      problem: Φ and L_val.

    Returns:
      An `Estimator`. Its state holds a copy of the weights for each scalar of λ; its step raises
      ValueError, while tracing, for arguments that do not fit together.
    """

    def init(signature, weights, hparams, batch):
        return ForwardModeState(signature, no_products(), _zero(weights, hparams))

    def observe(problem, state, transition, key):
        previous, _, hparams, batch, _ = transition
        jacobian = _push(problem, previous, hparams, batch, state.jacobian)
        products = spend(state.products, _count(hparams))
        return state._replace(jacobian=jacobian, products=products)

    def estimate(problem, state, transition):
        _, current, hparams, _, outer_batch = transition
        pulled = outer_pullback(problem, current, hparams, outer_batch)
        return _contract(pulled, hparams, state.jacobian)[1], state

    return make_estimator(problem, ALL, "forward_mode", init, observe, estimate)


def _count(hparams) -> int:
    return sum(jnp.size(x) for x in jax.tree.leaves(hparams))


def _zero(weights, hparams):
    zero = [jnp.zeros((_count(hparams), *jnp.shape(x)), dtype_of(x)) for x in split(weights)[0]]
    return vary_like(zero, (weights, hparams))


def _push(problem, weights, hparams, batch, jacobian):
    """A Z + B, a Jacobian-vector product for each scalar hyperparameter."""
    phi, real = differentiable(problem, weights, batch)
    flat, unravel = ravel_pytree(hparams)

    def column(j, tangent):
        unit = vary_like(unravel(jax.nn.one_hot(j, flat.size, dtype=flat.dtype)), hparams)
        return jax.jvp(phi, (real, hparams), (tangent, unit))[1]

    return jax.vmap(column)(jnp.arange(flat.size), jacobian)


def _contract(pulled, hparams, jacobian):
    """(L_val, hypergradient), from what `outer_pullback` returns and Z."""
    loss, alpha, first_order = pulled
    flat, unravel = ravel_pytree(hparams)
    parts = [z.reshape(flat.size, -1) @ a.reshape(-1) for z, a in zip(jacobian, alpha)]
    response = sum(parts, start=jnp.zeros(flat.size, flat.dtype))
    return loss, Hypergradient(first_order, unravel(response.astype(flat.dtype)))
