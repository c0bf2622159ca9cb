"""What optax.tree lacks: weights whose integer leaves (step counters, keys) take no derivative."""

import jax
import jax.numpy as jnp
import optax


def dtype_of(leaf):
    """The dtype that JAX gives an array, a key array, a shape struct or a Python number."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    is_key = jnp.issubdtype(dtype, jax.dtypes.extended)
    return dtype if is_key else jax.dtypes.canonicalize_dtype(dtype)


def is_real(leaf) -> bool:
    """Whether a leaf is floating point, that is, whether it takes a derivative."""
    return jnp.issubdtype(dtype_of(leaf), jnp.floating)


def split(tree):
    """Splits a tree into its floating-point leaves and a function that puts such leaves back.

    Returns:
      (leaves, merge): a list of the floating-point leaves; `merge(list)` is the whole tree again,
      with the other leaves as they were.
    """
    leaves, structure = jax.tree.flatten(tree)
    real = [is_real(leaf) for leaf in leaves]

    def merge(values):
        values = iter(values)
        return structure.unflatten(next(values) if r else x for r, x in zip(real, leaves))

    return [leaf for leaf, r in zip(leaves, real) if r], merge


def mix(share, old, new, latest):
    """share·old + (1 - share)·new on floating-point leaves; the others are `latest`'s.

    Exact at share = 0, where it is `new` to the last bit (for finite `old`).
    """

    def one(a, b, c):
        return b + jnp.asarray(share, dtype_of(b)) * (a - b) if is_real(b) else c

    return jax.tree.map(one, old, new, latest)


def shapes(tree):
    """The tree with a `jax.ShapeDtypeStruct` for each leaf."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), dtype_of(x)), tree)


def own(leaf):
    """A copy that may be donated, its dtype no longer weak (an update would make it strong)."""
    if jnp.issubdtype(dtype_of(leaf), jax.dtypes.extended):
        return jnp.copy(leaf)
    return jnp.array(leaf, dtype_of(leaf))


def scale(factor, tree):
    """factor·tree, each leaf in its own dtype."""
    return jax.tree.map(lambda x: jnp.asarray(factor, x.dtype) * x, tree)


def unit(tree):
    """(tree / ‖tree‖, ‖tree‖), the Euclidean norm over all leaves; zero stays zero."""
    norm = optax.tree.norm(tree)
    return scale(jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0), tree), norm
