"""The compiled programs behind un-jitted calls: one bounded cache."""

import dis
import enum
import functools
import inspect
import numbers
import types
import weakref
import zlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 32
COMPARED = 2**20  # bytes of a NumPy array up to which what is written in it in place is seen
ENTRIES = 1000  # of a container up to which what is put into it is seen
# Whose functions close over nothing that changes, and name no globals of the user's.
LIBRARIES = ("jax", "jaxlib", "optax", "flax", "equinox", "numpy", "hdistill")
# What code writes to itself is no data: containers, by the methods and operations that it names.
WRITTEN: dict[type, set[str]] = {
    list: {"append", "extend", "insert", "[]="},
    set: {"add"},
    dict: {"[]="},
}


def compiled(make: Callable, *static, reads=()) -> Callable:
    """`make(*static)`, jitted; the same jitted function as long as it is among the last 32 used.

    What the functions among `static` and `reads` call, close over and name is part of the key: one
    that has changed is compiled again. Inside another compilation it is returned as it is, to
    become part of that program.

    Args:
      make: builds a function of arrays.
      static: what it is built from: functions, and values that `==` tells apart.
      reads: other functions that the program calls.
    """
    if is_tracing():
        return make(*static)
    read = tuple(_read((static, reads)))
    if any(isinstance(value, jax.core.Tracer) for value in read):  # under jax.vmap or jax.grad
        return jax.jit(make(*static))
    for value in read:
        if isinstance(value, np.ndarray):
            _forget_if_written(value)
    return _program(make, tuple(map(_hashable, static)), tuple(map(_token, read)))


def is_tracing() -> bool:
    """Tells whether this is called inside a compilation, where even constants are traced."""
    return isinstance(jax.lax.iota(jnp.int32, 1), jax.core.Tracer)


@functools.lru_cache(maxsize=SIZE)
def _program(make, static, read):
    return jax.jit(make(*(x.value if isinstance(x, _Same) else x for x in static)))


def clear_cache() -> None:
    """Forgets the compiled programs of un-jitted calls, with the functions and data they hold.

    Un-jitted calls of `hd.offline`'s methods, `hd.fit_size`, `hd.unroll`, `hd.compare`,
    `hd.evaluate` and `hd.influence` compile once for each problem, batch function, set of options
    and shapes; the 32 programs used last are kept. They compile again where something has changed
    that their functions read: a global that they name, what they close over, an attribute of an
    object or a module that they name, another function that they call. Not seen are what a function
    writes itself (a counter, a log), containers of more than 1,000 entries and what is written in
    place into an array of more than 1 MB. `learner.step` and `stream.step` are compiled by
    `jax.jit`, and read all of this once.

    Examples:
      >>> hd.clear_cache()
    """
    _program.cache_clear()


def _read(values) -> Iterator:
    """The data that functions read when they run, besides their arguments, and their code."""
    seen: set[int] = set()
    waiting: list[tuple] = [(value, frozenset()) for value in reversed(values)]
    while waiting:
        value, names = waiting.pop()
        if isinstance(value, numbers.Number | str | enum.Enum | np.ndarray | jax.Array):
            yield value
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, types.FunctionType):
                yield value.__code__
            waiting += reversed(_parts(value, names))


def _parts(value, names: frozenset[str]) -> list[tuple]:
    """(what a function, an object or a container has that may be read, the names that are read).

    Args:
      names: those of attributes in the code that has the value.
    """
    if isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, dict):
        parts = [*value, *value.values()] if len(value) <= ENTRIES else []
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value) if len(value) <= ENTRIES else []
    elif isinstance(value, types.MethodType):
        parts = [value.__func__]
        names = names | _names(value.__func__)
        parts += _attributes(value.__self__, names) + _attributes(type(value.__self__), names)
    elif isinstance(value, types.FunctionType):
        return _of_function(value)
    elif (getattr(value, "__module__", None) or "").partition(".")[0] in LIBRARIES:
        return []
    elif isinstance(value, types.ModuleType):
        library = value.__name__.partition(".")[0] in LIBRARIES
        parts = [] if library else _attributes(value, names)
    else:
        call = inspect.getattr_static(type(value), "__call__", None) if callable(value) else None
        if isinstance(call, types.FunctionType):
            names = names | _names(call)
        parts = [call, *_attributes(value, names)]
        parts += [] if isinstance(value, type) else _attributes(type(value), names)
    return [(part, names) for part in parts]


def _of_function(function) -> list[tuple]:
    """Lists the values a function closes over, its defaults, and the globals that it names."""
    names = _names(function)
    cells = zip(function.__code__.co_freevars, function.__closure__ or ())
    parts = [_content(cell) for name, cell in cells if name in names]
    parts += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    if (function.__module__ or "").partition(".")[0] not in LIBRARIES:
        known = names & function.__globals__.keys()
        parts += [function.__globals__[name] for name in sorted(known)]
    if hasattr(function, "__wrapped__"):
        parts.append(function.__wrapped__)
    kept = [part for part in parts if not names & WRITTEN.get(type(part), set())]
    return [(part, names) for part in kept]


def _attributes(value, names: frozenset[str]) -> list:
    """Those attributes of an object, a class or a module that code names."""
    try:
        own = vars(value)
    except TypeError:  # it has slots, or nothing
        return []
    return [own[name] for name in sorted(names & own.keys())]


@functools.lru_cache(maxsize=4096)
def _names_of_code(code) -> frozenset[str]:
    read, written = set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname.startswith(("STORE_ATTR", "STORE_GLOBAL", "STORE_DEREF")):
            written.add(instruction.argval)
        elif instruction.opname == "STORE_SUBSCR":
            read.add("[]=")
        elif isinstance(instruction.argval, str) and instruction.opname.startswith("LOAD_"):
            read.add(instruction.argval)
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return frozenset(read | set().union(*map(_names_of_code, inner))) - frozenset(written)


def _names(function) -> frozenset[str]:
    """The names of globals and attributes that a function reads and does not write."""
    code = getattr(function, "__code__", None)
    return frozenset() if code is None else _names_of_code(code)


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # empty as yet
        return None


def _token(value):
    """A key that tells a value from another: numbers and texts by `==`, arrays by identity."""
    if isinstance(value, np.ndarray | jax.Array):
        return _Same(value)
    return type(value), repr(value) if isinstance(value, float | complex) else _hashable(value)


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
    """Stands for an object without a hash: equal only to itself."""

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
