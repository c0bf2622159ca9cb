"""Bad input, caught before compilation: a ValueError that names argument, value and expectation."""

import dataclasses
import inspect
import numbers
import os
import sys
import types
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from hdistill.tree import dtype_of, is_real

LARGEST = 2**31 - 1  # steps and products are counted in int32


def check_gamma(value, name: str = "gamma") -> float:
    """A decay in [0, 1], static."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name}={value!r}: expected a Python number in [0, 1]")
    return float(value)


def check_positive(name: str, value) -> float:
    """A finite Python number above 0, static."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not 0 < value < float("inf"):
        raise ValueError(f"{name}={value!r}: expected a finite number > 0")
    return float(value)


def check_count(name: str, value, least: int = 1) -> int:
    """A static whole number of at least `least` that an int32 holds."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name}={value!r}: expected a whole number >= {least}")
    if value > LARGEST:
        raise ValueError(f"{name}={value!r}: expected at most {LARGEST}, what an int32 counts")
    return int(value)


def check_flag(name: str, value) -> bool:
    """True or False, static."""
    if not isinstance(value, bool | np.bool):
        raise ValueError(f"{name}={value!r}: expected True or False")
    return bool(value)


def check_choice(name: str, value, choices) -> None:
    """One of a few strings, static."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r}: expected one of {sorted(choices)}")


def outside() -> int:
    """The `stacklevel` of a warning at the first caller outside this library and JAX."""
    level = 0
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in ("hdistill", "jax", "functools", "contextlib"):
            break
        level, frame = level + 1, frame.f_back
    return max(level, 1)


def describe(value) -> str:
    """Describes a value for an error: an array's dtype and shape, else the value itself."""
    is_array = hasattr(value, "dtype") and hasattr(value, "shape")
    return f"{value.dtype}{list(value.shape)}" if is_array else repr(value)


def is_concrete(value) -> bool:
    """Tells whether a value is known now: not an array that is being traced."""
    return not isinstance(value, jax.core.Tracer)


def summary(tree) -> str:
    """Counts the arrays and bytes of a tree, for a repr of one line."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return "None"
    if len(leaves) == 1:
        return describe(leaves[0])
    return f"<{len(leaves)} arrays, {sum(np.size(x) for x in leaves)} numbers>"


def check_key(key, name: str = "key") -> None:
    """A single typed PRNG key."""
    typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape:
        raise ValueError(f"{name}={describe(key)}: expected one typed key, jax.random.key(seed)")


def check_calls(name: str, function, arguments: str) -> None:
    """A function of so many arguments: "(weights, hparams, batch)" are three."""
    if not callable(function):
        raise ValueError(f"{name}={function!r}: expected a function {arguments}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C
        return
    try:
        signature.bind(*arguments.split(","))
    except TypeError as error:
        raise ValueError(
            f"{name}={function!r}: expected a function {arguments}, but {error}"
        ) from error


def check_weights(weights) -> None:
    """There are weights, and every leaf is an array, a key or a Python number."""
    check_arrays("weights", weights)
    if not jax.tree.leaves(weights):
        raise ValueError(f"weights={weights!r}: expected at least one array")


def check_arrays(name: str, tree) -> None:
    """Every leaf is an array, a key or a Python number."""
    if isinstance(tree, Iterator):
        raise ValueError(f"{name} is a {type(tree).__name__}: expected an array or a tree of them")
    for path, leaf in named(tree, name):
        bits = 64 if jax.config.read("jax_enable_x64") else 32
        if isinstance(leaf, np.ndarray | np.generic) and not isinstance(leaf, np.ma.MaskedArray):
            _check_dtype(path, leaf.dtype)
        elif isinstance(leaf, int) and not -(2 ** (bits - 1)) <= leaf < 2**bits:
            raise ValueError(f"{path}={leaf}: expected an integer of {bits} bits at most")
        elif not isinstance(leaf, bool | int | float | complex | jax.Array) and not (
            hasattr(leaf, "aval")  # a reference to an array
        ):
            what = describe(leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else repr(leaf)
            raise ValueError(
                f"{path} is a {type(leaf).__name__}, {what}: expected an array of JAX or NumPy, or "
                "a number (from an Equinox module take the arrays with eqx.partition(module, "
                "eqx.is_array))"
            )


def _check_dtype(path: str, dtype: np.dtype) -> None:
    """A dtype of NumPy's that JAX has too, in this machine's byte order."""
    extended = dtype.kind == "V" and not issubclass(dtype.type, np.void)  # bfloat16 and its like
    if not extended and (dtype.kind not in "biufc" or dtype.itemsize > 16 or dtype.char in "gG"):
        raise ValueError(f"{path} has dtype {dtype}: expected numbers that JAX has")
    if not dtype.isnative:
        raise ValueError(
            f"{path} has dtype {dtype.str}, of another byte order: expected this machine's, "
            f"x.astype('{dtype.newbyteorder('=').str}')"
        )


def check_no_list(name: str, tree, axis: str) -> None:
    """Not a list of trees of one shape, whose leading axes would be taken for something else."""
    if isinstance(tree, list):
        kinds = {Signature.of(item) for item in tree}
        if len(kinds) == 1:
            raise ValueError(
                f"{name} is a list of {len(tree)} trees of one shape: expected one tree with a "
                f"leading {axis} axis; stack it, jax.tree.map(lambda *x: jnp.stack(x), *{name}) "
                f"(a tree that does have such a list at its top: make it a tuple)"
            )


def check_memory(name: str, value, what: str, size: int) -> None:
    """A buffer of `size` bytes fits the memory of our first device (on a CPU, the machine's)."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = statistics.get("bytes_limit", machine)
    if size > limit:
        raise ValueError(
            f"{name}={value}: {what} would take {size / 1e9:.3g} GB, and the device has "
            f"{limit / 1e9:.3g} GB; expected a smaller {name}"
        )


def leading_axis(tree, name: str) -> int:
    """The length of the leading axis that all leaves share, or a ValueError that names them."""
    sizes = {path: jnp.shape(x)[0] if jnp.ndim(x) else None for path, x in named(tree, name)}
    first = next(iter(sizes.values()), None)
    if first is None or set(sizes.values()) != {first}:
        expected = "expected one leading axis shared by all leaves"
        if any(jnp.issubdtype(dtype_of(x), jax.dtypes.prng_key) for x in jax.tree.leaves(tree)):
            expected += " (of a key make one for each example, jax.random.split(key, examples))"
        raise ValueError(f"{name}: {expected}, got {sizes}")
    return first


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Signature:
    """Structure, shapes and dtypes of a tree, carried inside a state without any array."""

    structure: jax.tree_util.PyTreeDef
    leaves: tuple

    @classmethod
    def of(cls, tree) -> "Signature":
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple((jnp.shape(x), str(dtype_of(x))) for x in leaves))

    def __reduce__(self):
        """By a tree: a tree definition of JAX that went through pickle equals no fresh one."""
        return _from_described, (self.structure.unflatten(map(_Described, self.leaves)),)

    def check(self, name: str, tree) -> None:
        """Raises a ValueError that names the first leaf of `tree` that differs."""
        other = Signature.of(tree)
        if self.structure != other.structure:
            raise ValueError(f"{name} has structure {other.structure}: expected {self.structure}")
        for (path, _), actual, expected in zip(named(tree, name), other.leaves, self.leaves):
            if actual != expected:
                raise ValueError(
                    f"{path} has shape {actual[0]} and dtype {actual[1]}: expected shape "
                    f"{expected[0]} and dtype {expected[1]}"
                )


class _Described(tuple):
    """(shape, dtype) of a leaf, a leaf itself."""


def _from_described(tree) -> Signature:
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, _Described))
    return Signature(structure, tuple(map(tuple, leaves)))


def check_hparams(hparams) -> None:
    """There are hyperparameters, and every one is floating point."""
    check_arrays("hparams", hparams)
    if not sum(np.size(x) for x in jax.tree.leaves(hparams)):
        shapes = jax.tree.map(jnp.shape, hparams)
        raise ValueError(f"hparams={shapes}: expected at least one hyperparameter")
    for path, leaf in named(hparams, "hparams"):
        if not is_real(leaf):
            raise ValueError(
                f"{path} has dtype {dtype_of(leaf)}: expected floating point, because a "
                "hypergradient is taken with respect to every hyperparameter"
            )


def named(tree, name: str):
    """(name and path, leaf) for each leaf."""
    return [
        (f"{name}{jax.tree_util.keystr(path)}", leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
