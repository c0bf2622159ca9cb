"""Hyperparameters that change from step to step: a value λ_t for each, free or on a curve."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.checks.optimizers import begin, check_optimizer
from hdistill.checks.values import check_calls, check_count, check_hparams, named


class ScheduleState(NamedTuple):
    """State of a transformation made by `schedule`.

    Attributes:
      step: t, int32 [].
      inner: of the transformation whose settings change.
    """

    step: jax.Array
    inner: Any


def curve(knots, step, horizon: int):
    """The values λ_t of a smooth curve through k knots, evenly spaced over the T steps.

    A Catmull-Rom spline: cubic between two knots, through each of them, its slope there half the
    difference of the neighbours. The first knot is at t = 0, the last at t = T - 1 and after. With
    k = T knots each step has its own value, with one knot all steps share it.

    Use it wherever λ should depend on t, as in an inner loss whose batch tells t: shares of
    sources, a temperature, a dropout rate. For what an optax optimizer holds see `schedule`.

    References:
      Catmull and Rom, "A class of local interpolating splines", 1974.

    Examples:
      >>> values = [hd.curve(jnp.array([0.0, 2.0, 1.0]), t, horizon=5) for t in range(5)]
      >>> print(jnp.array(values))
      [0.   1.06 2.   1.62 1.  ]

    Args:
      knots: a pytree of floating-point arrays [k, ...], 1 <= k <= T, k by leaf.
      step: t, int32 [] or a Python int.
      horizon: T.

    Returns:
      A pytree of the structure of `knots`, each leaf without its leading axis.

    Raises:
      ValueError: a leaf without an axis of knots, or with more knots than steps.
    """
    horizon = check_count("horizon", horizon)
    _check_knots(knots, horizon)

    def value(knots):
        knots = jnp.asarray(knots)
        last = len(knots) - 1
        if last == 0:
            return knots[0]
        at = jnp.clip(step, 0, horizon - 1)
        if last == horizon - 1:
            return knots[at]
        place = at.astype(knots.dtype) * (last / (horizon - 1))
        left = jnp.minimum(jnp.floor(place).astype(jnp.int32), last - 1)
        u = place - left.astype(knots.dtype)
        a, b, c, d = (knots[jnp.clip(left + i, 0, last)] for i in (-1, 0, 1, 2))
        cubic = 3 * (b - c) + d - a
        return b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * cubic))

    return jax.tree.map(value, knots)


def schedule(
    make: Callable[[Any], optax.GradientTransformation],
    knots,
    horizon: int,
    *,
    of: Callable[[Any], Any] = lambda hparams: hparams,
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation whose settings are λ, a value for each step.

    In `hd.from_losses` its settings at step t are `curve(of(λ), t, T)`: learnt rates, decays and
    momenta without a Φ written by hand. The step is counted in its state. It goes into
    `optax.chain` beside others.

    Examples:
      >>> def make(at):
      ...     return optax.sgd(jnp.exp(at["log_rate"]), momentum=at["momentum"])
      >>> knots = {"log_rate": jnp.full(4, -2.0), "momentum": jnp.array([0.9])}
      >>> optimizer = hd.schedule(make, knots, horizon=20)
      >>> learnable = hd.from_losses(outer_loss, outer_loss, optimizer)
      >>> start = hd.InnerState(weights.params, optimizer.init(weights.params))
      >>> g = hd.offline.reverse_mode(learnable, knots, start, batches, outer_batch, horizon=20)
      >>> print(g.total["log_rate"])
      [1.24 2.5  2.44 1.62]

    Args:
      make: `(settings) -> optax transformation`; settings are of the structure of `knots`, without
        the leading axes.
      knots: the knots to begin with, as `curve` takes them; the part of λ that `of` gives has their
        structure and shapes.
      horizon: T.
      of: λ -> the knots; λ itself by default.

    Returns:
      An optax transformation, whose `update` wants `hparams=` (`hd.from_losses` gives it).

    Raises:
      ValueError: an argument of another kind; knots that do not fit T; from Φ, a λ whose knots have
        another structure or other shapes.
    """
    check_calls("make", make, "(settings)")
    check_calls("of", of, "(hparams)")
    horizon = check_count("horizon", horizon)
    check_hparams(knots)
    _check_knots(knots, horizon)
    expected = jax.tree.map(jnp.shape, knots)

    def at(knots, step):
        made = make(curve(knots, step, horizon))
        check_optimizer("make(settings)", made)
        return optax.with_extra_args_support(made)

    def init(params):
        return ScheduleState(
            jnp.zeros((), jnp.int32), begin("make(settings)", at(knots, 0), params)
        )

    def update(updates, state, params=None, *, hparams=None, **extra):
        if hparams is None:
            raise ValueError("hparams=None: expected λ, as hd.from_losses gives it")
        given = of(hparams)
        if jax.tree.map(jnp.shape, given) != expected:
            found = jax.tree.map(jnp.shape, given)
            raise ValueError(f"of(hparams) has shapes {found}: expected those of knots, {expected}")
        inner = at(given, state.step)
        updates, moved = inner.update(updates, state.inner, params, hparams=hparams, **extra)
        return updates, ScheduleState(state.step + 1, moved)

    return optax.GradientTransformationExtraArgs(init, update)


def _check_knots(knots, horizon: int) -> None:
    for path, leaf in named(knots, "knots"):
        shape = jnp.shape(leaf)
        if not shape or not 1 <= shape[0] <= horizon:
            raise ValueError(f"{path} has shape {shape}: expected [k, ...], 1 <= k <= {horizon}")
