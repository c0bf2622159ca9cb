"""Φ that can be undone: SGD with momentum in fixed point, which loses no bit."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hdistill.checks.values import check_calls, check_count, check_positive, is_concrete, named
from hdistill.problem import InnerState, Loss, Problem
from hdistill.tree import own

BITS = {"float32": 20, "float64": 44}  # after the point; the mantissas have 24 and 53
WORD = 32  # bits of a word of lost digits


class Reversible(NamedTuple):
    """A Φ that can be undone, for `hd.offline.reversal`.

    Examples:
      >>> there = lambda w, shift, batch: w + shift  # with numbers that float adds without error
      >>> back = lambda w, shift, batch: w - shift
      >>> shifted = hd.Problem(hd.Reversible(there, back), lambda w, shift, batch: jnp.sum(w**2))
      >>> g = hd.offline.reversal(shifted, jnp.ones(2), jnp.zeros(2), None, None, horizon=4)
      >>> print(g.total)
      [32. 32.]

    Attributes:
      update: Φ, `(weights, hparams, batch) -> weights`.
      inverse: `(Φ(weights, hparams, batch), hparams, batch) -> weights`, to the bit.
    """

    update: Callable
    inverse: Callable

    def __call__(self, weights, hparams, batch):
        """Φ(weights, hparams; batch)."""
        return self.update(weights, hparams, batch)


class FixedPoint(NamedTuple):
    """What Φ of `hd.reversible_sgd` carries beside the parameters.

    Examples:
      >>> hd.FixedPoint._fields
      ('velocity', 'lost', 't')

    Attributes:
      velocity: of the parameters' structure, on the grid too.
      lost: the digits that the multiplications by γ lost, uint32 [words, ...] for each leaf.
      t: inner steps done, int32 [].
    """

    velocity: Any
    lost: Any
    t: jax.Array


def reversible_sgd(
    inner_loss: Loss,
    outer_loss: Loss,
    rate: float | Callable,
    momentum: tuple[int, int] = (9, 10),
) -> tuple[Problem, Callable]:
    """SGD with momentum whose steps can be undone exactly, so that no trajectory is stored.

        v_{t+1} = γ v_t + ∂L_train(w_t, λ; D)/∂w;    w_{t+1} = w_t - η v_{t+1}

    in fixed point: w, v, η v and the gradient are multiples of 2^-20 (2^-44 in float64). A sum of
    such numbers is undone by subtracting; γ v with γ = n / d loses the remainder of v / d, that is
    log2(d / n) bits a weight and step: 0.152 at γ = 0.9 (0.185 in words of 32 bits), where w and v
    take 64. The remainders are kept, and become the last digits of γ v (Maclaurin et al. 2015,
    Algorithm 3). A, B and so every hypergradient are those of the two lines above, without the
    rounding.

    Warning: parameters and velocities must stay below 16 (512 in float64), and the last digit of
    γ v, n units of the grid, is as good as random: in float32 take small n and d.

    References:
      Maclaurin et al., "Gradient-based Hyperparameter Optimization through Reversible Learning",
      ICML 2015.

    Examples:
      >>> undone, start = hd.reversible_sgd(inner_loss, outer_loss, 0.05)
      >>> g = hd.offline.reversal(
      ...     undone, hparams, start(params, 20), batches, outer_batch, horizon=20
      ... )
      >>> print(g.total)
      [-0.21  0.08  0.66]

    Args:
      inner_loss: L_train, `(params, hparams, batch) -> scalar`, twice differentiable.
      outer_loss: L_val, `(params, hparams, batch) -> scalar`.
      rate: η > 0, or `(hparams, batch) -> scalar`.
      momentum: (n, d), whole numbers 1 <= n < d, γ = n / d.

    Returns:
      (problem, start): `start(params, horizon)` is w_0, with room for the digits of that many
      steps: `InnerState(params, FixedPoint)`, params on the grid.

    Raises:
      ValueError: an argument has another type or is out of range; parameters have another dtype
        than float32 or float64, or are too large for the grid.
    """
    for name, loss in (("inner_loss", inner_loss), ("outer_loss", outer_loss)):
        check_calls(name, loss, "(params, hparams, batch)")
    if callable(rate):
        check_calls("rate", rate, "(hparams, batch)")
    else:
        check_positive("rate", rate)
    if not (isinstance(momentum, tuple) and len(momentum) == 2):
        raise ValueError(f"momentum={momentum!r}: expected two whole numbers (n, d), γ = n / d")
    n, d = (check_count("momentum", x) for x in momentum)
    if not n < d < 2**10:
        raise ValueError(f"momentum={momentum!r}: expected n < d < 1024, γ = n / d below 1")
    span = steps_of_a_word(n, d)

    gradient = jax.grad(inner_loss)

    def rate_of(hparams, batch):
        return jnp.asarray(rate(hparams, batch) if callable(rate) else rate)

    def update(weights: InnerState, hparams, batch) -> InnerState:
        params, (velocity, lost, t) = _checked(weights)
        slope, eta = gradient(params, hparams, batch), rate_of(hparams, batch)
        moved = jax.tree.map(lambda v, g: v * (n / d) + g, velocity, slope)
        ideal = jax.tree.map(lambda w, v: (w - eta * v).astype(w.dtype), params, moved), moved
        still_params, still = jax.lax.stop_gradient((params, velocity))
        slope = jax.tree.map(_snap, _alone(gradient, params, hparams, batch))
        eta = _alone(rate_of, hparams, batch)
        word = jax.tree.map(lambda x: x[t // span], lost)
        shrunk = jax.tree.map(lambda v, b: _shrink(v, b, n, d), still, word)
        digits, after = (_each(shrunk, i, still) for i in (1, 0))
        after = jax.tree.map(jnp.add, after, slope)
        there = jax.tree.map(lambda w, v: w - _snap(eta.astype(v.dtype) * v), still_params, after)
        params, velocity = jax.tree.map(_with_derivative, (there, after), ideal)
        lost = jax.tree.map(lambda x, b: x.at[t // span].set(b), lost, digits)
        return InnerState(params, FixedPoint(velocity, lost, t + 1))

    def inverse(weights: InnerState, hparams, batch) -> InnerState:
        params, (velocity, lost, t) = _checked(weights)
        t = t - 1
        eta = _alone(rate_of, hparams, batch)
        params = jax.tree.map(lambda w, v: w + _snap(eta.astype(v.dtype) * v), params, velocity)
        slope = jax.tree.map(_snap, _alone(gradient, params, hparams, batch))
        word = jax.tree.map(lambda x: x[t // span], lost)
        before = jax.tree.map(jnp.subtract, velocity, slope)
        grown = jax.tree.map(lambda v, b: _shrink(v, b, d, n), before, word)
        before, digits = (_each(grown, i, velocity) for i in (0, 1))
        lost = jax.tree.map(lambda x, b: x.at[t // span].set(b), lost, digits)
        return InnerState(params, FixedPoint(before, lost, t))

    def outer(weights: InnerState, hparams, batch):
        return outer_loss(_checked(weights).params, hparams, batch)

    def start(params, horizon: int) -> InnerState:
        words = math.ceil(check_count("horizon", horizon) / span)
        params = jax.tree.map(own, params)
        for path, leaf in named(params, "params"):
            if str(leaf.dtype) not in BITS:
                raise ValueError(f"{path} is {leaf.dtype}: expected float32 or float64")
            largest = 2 ** (jnp.finfo(leaf.dtype).nmant + 1 - BITS[str(leaf.dtype)])
            if is_concrete(leaf) and not jnp.abs(leaf).max(initial=0) < largest:
                raise ValueError(f"{path} has entries of {largest} or more: expected smaller ones")
        params = jax.tree.map(_snap, params)
        lost = jax.tree.map(lambda x: jnp.zeros((words, *x.shape), jnp.uint32), params)
        return InnerState(
            params, FixedPoint(jax.tree.map(jnp.zeros_like, params), lost, jnp.int32(0))
        )

    return Problem(Reversible(update, inverse), outer), start


def _alone(function: Callable, *given):
    """The function's value, computed by itself: the same bits in whatever program it is."""
    given = jax.lax.optimization_barrier(jax.lax.stop_gradient(given))
    return jax.lax.optimization_barrier(function(*given))


def _checked(weights) -> InnerState:
    if not (isinstance(weights, InnerState) and isinstance(weights.opt_state, FixedPoint)):
        raise ValueError("weights: expected start(params, horizon) of hd.reversible_sgd")
    return weights


def steps_of_a_word(n: int, d: int) -> int:
    """Inner steps whose lost digits one word holds, about 32 / log2(d / n)."""
    largest, steps = 0, 0
    while largest * d + d - 1 < 2**WORD:
        largest, steps = (largest * d + d - 1) // n, steps + 1
    return steps


def _unit(x) -> float:
    return 2.0 ** -BITS[str(x.dtype)]


def _snap(x):
    """The nearest number of the grid."""
    return jnp.round(x / _unit(x)) * _unit(x)


def _shrink(v, word, n: int, d: int):
    """(v n / d, the word): the remainder of v / d goes into the word, a digit below n comes out.

    Undone by itself with n and d exchanged.
    """
    whole = (v / _unit(v)).astype(jnp.int64 if v.dtype == jnp.float64 else jnp.int32)
    rest = whole % d
    word = word * jnp.uint32(d) + rest.astype(jnp.uint32)
    digit = word % jnp.uint32(n)
    scaled = (whole - rest) // d * n + digit.astype(whole.dtype)
    return scaled.astype(v.dtype) * _unit(v), word // jnp.uint32(n)


def _each(pairs, i: int, like):
    """The i-th of each pair in a tree of the structure of `like`."""
    return jax.tree.map(lambda _, pair: pair[i], like, pairs)


@jax.custom_jvp
def _with_derivative(value, ideal):
    """`value`, with the derivative of `ideal`."""
    return value


@_with_derivative.defjvp
def _(primals, tangents):
    return _with_derivative(*primals), tangents[1]
