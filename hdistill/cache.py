"""The compiled programs behind un-jitted calls: one bounded cache."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

SIZE = 32


def compiled(make: Callable, *static) -> Callable:
    """`make(*static)`, jitted; the same jitted function as long as it is among the last 32 used.

    Inside another compilation it is returned as it is, to become part of that program.

    Args:
      make: builds a function of arrays.
      static: what it is built from: functions, and values that `==` tells apart.
    """
    if is_tracing():
        return make(*static)
    return _program(make, *map(_hashable, static))


def is_tracing() -> bool:
    """Whether this is called inside a compilation, where even constants are traced."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


@functools.lru_cache(maxsize=SIZE)
def _program(make, *static):
    return jax.jit(make(*(x.value if isinstance(x, _Same) else x for x in static)))


def clear_cache() -> None:
    """Forgets the compiled programs of un-jitted calls, with the functions and data they hold.

    Un-jitted calls of `hd.offline`'s methods, `hd.fit_size`, `hd.unroll`, `hd.compare` and
    `hd.evaluate` compile once for each problem, batch function, set of options and shapes; the 32
    programs used last are kept.

    Examples:
      >>> hd.clear_cache()
    """
    _program.cache_clear()


class _Same:
    """Stands for an object without a hash: equal to itself alone."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self):
        return id(self.value)


def _hashable(value):
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return value
