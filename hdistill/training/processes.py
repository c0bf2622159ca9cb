"""Several processes of `jax.distributed`: only process 0 has a folder, the others take its values.

In one process each function gives its argument back.
"""

import json

import jax
import numpy as np


def agreed(tree):
    """Gives process 0's arrays and numbers to every process."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils  # of no use in one process

    leaves, structure = jax.tree.flatten(tree)
    arrays = [jax.random.key_data(x) if is_key(x) else np.asarray(x) for x in leaves]
    same = multihost_utils.broadcast_one_to_all(arrays)
    pairs = zip(leaves, map(np.asarray, same))
    return jax.tree.unflatten(structure, [_like(x, y) for x, y in pairs])


def agreed_json(value):
    """The same of what JSON holds."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    buffer = np.zeros(int(agreed(np.array(len(text)))), np.uint8)
    if jax.process_index() == 0:
        buffer[:] = text
    return json.loads(agreed(buffer).tobytes())


def largest(number: int) -> int:
    """The largest of the processes' numbers."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils  # of no use in one process

    return int(multihost_utils.process_allgather(np.array(number)).max())


def local(tree):
    """A state that is the same on all devices, as arrays of this process only."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)


def _like(leaf, array):
    if not is_key(leaf):
        return array
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))


def is_key(leaf) -> bool:
    """Tells whether a leaf is an array of typed PRNG keys."""
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
