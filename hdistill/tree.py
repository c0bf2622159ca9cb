"""Trees whose integer leaves (step counters, keys) take no derivative."""

import jax
import jax.numpy as jnp
import optax


def dtype_of(leaf):
    """The dtype that JAX gives an array, a key array, a shape struct or a Python number."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    is_key = jnp.issubdtype(dtype, jax.dtypes.extended)
    return dtype if is_key else jax.dtypes.canonicalize_dtype(dtype)


def is_real(leaf) -> bool:
    """Tells whether a leaf is floating point, that is, whether it takes a derivative."""
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


def wide(tree):
    """The tree with float32 for half precision, in which a running mean or a sum stalls."""

    def one(x):
        narrow = is_real(x) and dtype_of(x).itemsize < 4
        return jnp.asarray(x, jnp.float32) if narrow else x

    return jax.tree.map(one, tree)


def like(tree, reference):
    """The tree in the dtypes of `reference`."""
    return jax.tree.map(lambda x, r: x.astype(dtype_of(r)) if is_real(r) else x, tree, reference)


def mix(share, old, new, latest):
    """share·old + (1 - share)·new on floating-point leaves; the others are `latest`'s.

    Exact at share = 0, where it is `new` to the last bit. In the dtypes of `old`, so that a mean
    that begins `wide` stays so.
    """

    def one(a, b, c):
        if not is_real(b):
            return c
        b, part = jnp.asarray(b, dtype_of(a)), jnp.asarray(share, dtype_of(a))
        return between(part, a, b, b + part * (a - b))

    return jax.tree.map(one, old, new, latest)


def between(share, a, b, mixed):
    """`mixed`, which is share·a + (1 - share)·b, put right where an infinite end makes it nan.

    Infinite weights are ordinary: the -inf of an attention mask, a best loss that begins at inf.
    Where one end has the whole share it is that end, else the infinite one.
    """
    weighed = share * a + (1 - share) * b
    end = jnp.where(share == 0, b, jnp.where(share == 1, a, weighed))
    return jnp.where(jnp.isfinite(mixed), mixed, end)


def shapes(tree):
    """The tree with a `jax.ShapeDtypeStruct` for each leaf."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), dtype_of(x)), tree)


def nbytes(tree) -> int:
    """The bytes that a tree's arrays take."""
    return sum(jnp.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))


def own(leaf):
    """A copy that may be donated, its dtype no longer weak (an update would make it strong)."""
    if jnp.issubdtype(dtype_of(leaf), jax.dtypes.extended):
        return jnp.copy(leaf)
    return jnp.array(leaf, dtype_of(leaf))


def part(tree, which):
    """Splits a tree into chosen leaves and a function that puts such leaves back.

    Args:
      which: a bool for each leaf.

    Returns:
      (chosen, merge): the tree itself where all are chosen, else a list; `merge(chosen)` is the
      whole tree again, with the other leaves as they were.
    """
    if all(which):
        return tree, lambda chosen: chosen
    leaves, structure = jax.tree.flatten(tree)

    def merge(chosen):
        chosen = iter(chosen)
        return structure.unflatten(next(chosen) if w else x for w, x in zip(which, leaves))

    return [leaf for leaf, w in zip(leaves, which) if w], merge


def is_finite(tree):
    """Tells whether every entry of every floating-point leaf is finite, bool []."""
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in split(tree)[0]] or [jnp.array(True)]))


def select(which, tree, other):
    """`tree` where the bool [] `which` is true, else `other`."""
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), tree, other)


def scale(factor, tree):
    """factor·tree, each leaf in its own dtype."""
    return jax.tree.map(lambda x: jnp.asarray(factor, x.dtype) * x, tree)


def unit(tree):
    """(tree / ‖tree‖, ‖tree‖), the Euclidean norm over all leaves; zero stays zero."""
    norm = optax.tree.norm(tree)
    return scale(jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0), tree), norm
