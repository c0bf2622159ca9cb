"""Hyperparameters that change from step to step: a value λ_t for each, free or on a curve."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.checks.optimizers import OptimizerError, begin, check_optimizer
from hdistill.checks.values import check_calls, check_count, named
from hdistill.tree import is_real


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
    difference of the neighbours; beyond the ends a knot goes on in a straight line, so that two
    knots are a line. The first knot is at t = 0, the last at t = T - 1 and after. With k = T knots
    each step has its own value, with one knot all steps share it.

    Use it wherever λ should depend on t, as in an inner loss whose batch tells t: shares of
    sources, a temperature, a dropout rate. For what an optax optimizer holds see `schedule`.

    References:
      Catmull and Rom, "A class of local interpolating splines", 1974.

    Examples:
      >>> values = [hd.curve(jnp.array([0.0, 2.0, 1.0]), t, horizon=5) for t in range(5)]
      >>> print(jnp.array(values))
      [0.   1.19 2.   1.69 1.  ]

    Args:
      knots: a pytree of floating-point arrays [k, ...], 1 <= k <= T; k may differ between leaves.
      step: t, int32 [] or a Python int.
      horizon: T.

    Returns:
      A pytree of the structure of `knots`, each leaf without its leading axis.

    Raises:
      ValueError: no leaf; a leaf that is not floating point, or has no axis of knots, or more knots
        than steps; a step that is not a whole number.
    """
    horizon = check_count("horizon", horizon)
    _check_knots(knots, horizon)
    if not jnp.issubdtype(jnp.result_type(step), jnp.integer):
        raise ValueError(f"step has dtype {jnp.result_type(step)}: expected a whole number")

    def at_step(knots):
        knots = jnp.asarray(knots)
        last = len(knots) - 1
        if last == 0:
            return knots[0]
        at = jnp.clip(step, 0, horizon - 1)
        if last == horizon - 1:
            return knots[at]
        wide = knots.astype(jnp.promote_types(knots.dtype, jnp.float32))  # t may be no half float
        place = at.astype(wide.dtype) * (last / (horizon - 1))
        left = jnp.minimum(jnp.floor(place).astype(jnp.int32), last - 1)
        u = place - left
        ends = 2 * wide[:1] - wide[1:2], 2 * wide[-1:] - wide[-2:-1]
        padded = jnp.concatenate([ends[0], wide, ends[1]])
        a, b, c, d = (padded[left + i] for i in range(4))
        cubic = 3 * (b - c) + d - a
        value = b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * cubic))
        return value.astype(knots.dtype)

    return jax.tree.map(at_step, knots)


def schedule(
    make: Callable[[Any], optax.GradientTransformation],
    knots,
    horizon: int,
    *,
    of: Callable[[Any], Any] = lambda hparams: hparams,
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation whose settings are λ, a value for each step.

    Pass it to `hd.from_losses`: at step t its settings are `curve(of(λ), t, T)`. So rates, decays
    and momenta are learnt without a Φ written by hand. The step is counted in its state. It goes
    into `optax.chain` beside others.

    Examples:
      >>> def make(at):
      ...     return optax.sgd(jnp.exp(at["log_rate"]), momentum=at["momentum"])
      >>> knots = {"log_rate": jnp.full(4, -2.0), "momentum": jnp.array([0.9])}
      >>> optimizer = hd.schedule(make, knots, horizon=20)
      >>> learnable = hd.from_losses(outer_loss, outer_loss, optimizer)
      >>> start = hd.InnerState(weights.params, optimizer.init(weights.params))
      >>> g = hd.offline.reverse_mode(learnable, knots, start, batches, outer_batch, horizon=20)
      >>> print(g.total["log_rate"])
      [1.12 2.61 2.52 1.53]

    Args:
      make: `(settings) -> optax transformation`; settings are of the structure of `knots`, without
        the leading axes.
      knots: the knots to begin with, as `curve` takes them; the part of λ that `of` gives has their
        structure and shapes.
      horizon: T. A run that goes on beyond it keeps the last values, without a warning.
      of: λ -> the knots; λ itself by default.

    Returns:
      An optax transformation, whose `update` wants `hparams=` (`hd.from_losses` gives it).

    Raises:
      ValueError: `make` or `of` is not a function; the knots do not fit T. From Φ: the knots in λ
        have another structure or other shapes.
    """
    check_calls("make", make, "(settings)")
    check_calls("of", of, "(hparams)")
    horizon = check_count("horizon", horizon)
    _check_knots(knots, horizon)
    expected = jax.tree.map(jnp.shape, knots)

    def at(knots, step):
        made = _called("make(settings)", make, curve(knots, step, horizon))
        check_optimizer("make(settings)", made)
        return optax.with_extra_args_support(made)

    def init(params):
        return ScheduleState(
            jnp.zeros((), jnp.int32), begin("make(settings)", at(knots, 0), params)
        )

    def update(updates, state, params=None, *, hparams=None, **extra):
        if hparams is None:
            raise OptimizerError("hparams=None: expected λ, as hd.from_losses gives it")
        given = _called("of(hparams)", of, hparams)
        if jax.tree.map(jnp.shape, given) != expected:
            found = jax.tree.map(jnp.shape, given)
            raise OptimizerError(
                f"of(hparams) has shapes {found}: expected those of knots, {expected}"
            )
        inner = at(given, state.step)
        updates, moved = inner.update(updates, state.inner, params, hparams=hparams, **extra)
        return updates, ScheduleState(state.step + 1, moved)

    return optax.GradientTransformationExtraArgs(init, update)


def _called(name: str, function: Callable, argument):
    """What the function gives; an error of its own names it."""
    try:
        return function(argument)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise OptimizerError(f"{name} raised {type(error).__name__}: {error}") from error


def _check_knots(knots, horizon: int) -> None:
    if not jax.tree.leaves(knots):
        raise ValueError(f"knots={knots!r}: expected at least one array [k, ...]")
    for path, leaf in named(knots, "knots"):
        shape = jnp.shape(leaf)
        if not is_real(leaf):
            raise ValueError(f"{path} has dtype {jnp.result_type(leaf)}: expected floating point")
        if not shape or not 1 <= shape[0] <= horizon:
            raise ValueError(
                f"{path} has shape {shape}: expected [k, ...], 1 <= k <= {horizon} (a list is a "
                "tree of scalars: give an array)"
            )
