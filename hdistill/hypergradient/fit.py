"""Sizes that an estimator has fitted before an inner optimisation, and the refusal of bad ones."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hdistill.tree import select


class FitStatus(enum.IntEnum):
    """The outcome of the fit of θ before an inner optimisation.

    Examples:
      >>> hd.FitStatus(2).name
      'USED'
    """

    NONE = 0  # the estimator fits nothing
    NOT_DUE = 1  # an earlier θ stays in use
    USED = 2  # the new θ is in use
    REFUSED_NOT_FINITE = 3  # θ is not finite; the last one used, or the initial one, stays in use
    REFUSED_NOT_POSITIVE = 4  # θ <= 0, which would send λ uphill; likewise


class Fit(NamedTuple):
    """The fit of the `theta` of an estimator's state before an inner optimisation.

    Attributes:
      initial: what is in use before any fit, a pytree of floating scalars.
      measure: `(inner, outer_batch, key) -> statistics`, a pytree of arrays, of an `InnerRun`
        whose problem gives way to the estimator's; where there are several tasks, the mean over
        them is what counts.
      solve: `statistics -> fitted`, like `initial`.
      products: `horizon -> int`, Jacobian products that `measure` spends.
      theta_of: `fitted -> θ`, the factor of the second-order term among what is fitted.
    """

    initial: Any
    measure: Callable[..., Any]
    solve: Callable[[Any], Any]
    products: Callable[[int], int]
    theta_of: Callable[[Any], jax.Array] = lambda fitted: fitted

    def first(self):
        """The values before any fit, as arrays."""
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), self.initial)

    def accept(self, statistics, old):
        """(what is in use after a fit, its `FitStatus`, int8 []).

        A θ that is not finite or not positive is refused, and `old` stays in use: the term's
        direction is the exact one's, or nearly, so that a negative size moves λ uphill, and 0
        leaves nothing of the term.
        """
        new = jax.tree.map(lambda x, like: x.astype(like.dtype), self.solve(statistics), old)
        theta = self.theta_of(new)
        status = jnp.where(
            jnp.isfinite(theta),
            jnp.where(theta > 0, FitStatus.USED, FitStatus.REFUSED_NOT_POSITIVE),
            FitStatus.REFUSED_NOT_FINITE,
        ).astype(jnp.int8)
        return select(status == FitStatus.USED, new, old), status
