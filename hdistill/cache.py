"""The compiled programs behind un-jitted calls: one bounded cache."""

import functools
import numbers
import types
import weakref
import zlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 32
COMPARED = 2**24  # bytes of a NumPy array up to which what is written in it in place is seen
# Whose functions close over nothing that changes, and name no globals of the user's.
LIBRARIES = ("jax", "jaxlib", "optax", "flax", "numpy", "hdistill")


def compiled(make: Callable, *static) -> Callable:
    """`make(*static)`, jitted; the same jitted function as long as it is among the last 32 used.

    What the functions among `static` close over, the globals that they name and the attributes of
    their objects are part of the key: one that has changed is compiled again. Inside another
    compilation it is returned as it is, to become part of that program.

    Args:
      make: builds a function of arrays.
      static: what it is built from: functions, and values that `==` tells apart.
    """
    if is_tracing():
        return make(*static)
    read = tuple(_read(static))
    if any(isinstance(value, jax.core.Tracer) for value in read):  # under jax.vmap or jax.grad
        return jax.jit(make(*static))
    for value in read:
        if isinstance(value, np.ndarray):
            _forget_if_written(value)
    return _program(make, tuple(map(_hashable, static)), tuple(map(_token, read)))


def is_tracing() -> bool:
    """Whether this is called inside a compilation, where even constants are traced."""
    return isinstance(jax.lax.iota(jnp.int32, 1), jax.core.Tracer)


@functools.lru_cache(maxsize=SIZE)
def _program(make, static, read):
    return jax.jit(make(*(x.value if isinstance(x, _Same) else x for x in static)))


def clear_cache() -> None:
    """Forgets the compiled programs of un-jitted calls, with the functions and data they hold.

    Un-jitted calls of `hd.offline`'s methods, `hd.fit_size`, `hd.unroll`, `hd.compare` and
    `hd.evaluate` compile once for each problem, batch function, set of options and shapes; the 32
    programs used last are kept. A function whose globals, closed-over values or object have changed
    is compiled again.

    Examples:
      >>> hd.clear_cache()
    """
    _program.cache_clear()


def _read(values, seen=None) -> Iterator:
    """The data that functions read when they run, besides their arguments."""
    seen = set() if seen is None else seen
    for value in values:
        if isinstance(value, numbers.Number | str | np.ndarray | jax.Array):
            yield value
        elif id(value) not in seen:
            seen.add(id(value))
            yield from _read(_parts(value), seen)


def _parts(value) -> list:
    """What a function, an object or a container has that it may read."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, list | tuple | set):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, types.MethodType):
        return [value.__func__, *getattr(value.__self__, "__dict__", {}).values()]
    if isinstance(value, types.FunctionType):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        if (value.__module__ or "").partition(".")[0] not in LIBRARIES:
            names = set(_names(value.__code__))
            cells += [value.__globals__[name] for name in names & value.__globals__.keys()]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, types.ModuleType | type) or not callable(value):
        return []
    wrapped = [value.__wrapped__] if hasattr(value, "__wrapped__") else []
    return wrapped + list(getattr(value, "__dict__", {}).values())


def _names(code) -> Iterator[str]:
    """The global names in a function's code, and in that of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # empty as yet
        return None


def _token(value):
    """What tells a value from another: numbers and texts by `==`, arrays by identity."""
    if isinstance(value, np.ndarray | jax.Array):
        return _Same(value)
    return type(value), repr(value)


_contents: dict[int, tuple] = {}  # of NumPy arrays that were read: (a weak reference, checksum)


def _forget_if_written(array: np.ndarray) -> None:
    """Empties the cache where an array that was read has been written to since.

    As long as a program holds the first values JAX gives them to new programs too.
    """
    if array.nbytes > COMPARED or array.dtype.hasobject:
        return
    content, place = zlib.crc32(np.ascontiguousarray(array).tobytes()), id(array)
    reference, before = _contents.get(place, (lambda: None, None))
    if reference() is array and before != content:
        clear_cache()
    _contents[place] = weakref.ref(array, lambda _: _contents.pop(place, None)), content


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
