"""The outer losses that an offline method sums: L_val at w_T, or after every n-th inner step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.devices import vary_like
from hdistill.problem import InnerRun
from hdistill.products import outer_pullback


class OuterLosses(NamedTuple):
    """L_val at w_n, w_2n, …, w_mn, whose sum is differentiated.

    Attributes:
      every: n.
      number: m >= 1.
      outer_batch_at: t -> the outer batch of w_{t+1}, asked at t = n-1, 2n-1, …
      single: whether this is L_val at w_T only, whose value is a scalar and not [1].
    """

    every: int
    number: int
    outer_batch_at: Callable[[jax.Array], Any]
    single: bool

    @property
    def end(self) -> int:
        """The number of inner steps before the last loss."""
        return self.every * self.number

    def pullback(self, inner: InnerRun, weights, t):
        """`outer_pullback` of the loss at w_t."""
        outer_batch = self.outer_batch_at(jnp.int32(t) - 1)
        return outer_pullback(inner.problem, weights, inner.hparams, outer_batch)

    def falls_at(self, t, begin=0):
        """Tells whether there is a loss at w_t and t > begin, bool []."""
        return (t % self.every == 0) & (t > begin)

    def add(self, inner: InnerRun, weights, t, alpha, first_order, begin=0):
        """The loss at w_t, if there is one and t > begin, and its gradients added.

        Returns:
          (L_val or 0, α, g^FO).
        """

        def added():
            loss, *more = self.pullback(inner, weights, t)
            return loss, *optax.tree.add([alpha, first_order], more)

        outer_batch = jax.eval_shape(self.outer_batch_at, jax.ShapeDtypeStruct((), jnp.int32))
        shape = jax.eval_shape(inner.problem.outer_loss, weights, inner.hparams, outer_batch)
        nothing = vary_like(jnp.zeros(shape.shape, shape.dtype), (alpha, weights))
        skipped = nothing, alpha, first_order
        return jax.lax.cond(self.falls_at(t, begin), added, lambda: skipped)

    def watch(self, inner: InnerRun, steps: int):
        """The first `steps` inner steps; (the weights after them, the losses on the way, [..])."""

        def stretch(carry, _):
            t, weights = carry
            weights, _ = inner.stretch(weights, t, self.every).steps()
            t = t + self.every
            outer_batch = self.outer_batch_at(t - 1)
            return (t, weights), inner.problem.outer_loss(weights, inner.hparams, outer_batch)

        count, weights, values = steps // self.every, inner.weights, None
        if count:
            (_, weights), values = jax.lax.scan(stretch, (jnp.int32(0), weights), length=count)
        first = count * self.every
        return inner.stretch(weights, first, steps - first).steps()[0], values

    def info(self, *values):
        """The values of all losses in one array, in order; a scalar where there is only one."""
        if self.single:
            return values[-1]
        return jnp.concatenate([jnp.ravel(x) for x in values if x is not None])


def outer_losses(horizon: int, outer_batch, every: int | None = None) -> OuterLosses:
    """The losses that `every` says, of `horizon` inner steps.

    Args:
      outer_batch: of L_val at w_T where `every` is None, else a function of the inner step.
    """
    if every is None:
        return OuterLosses(horizon, 1, lambda t: outer_batch, True)
    return OuterLosses(every, horizon // every, outer_batch, False)
