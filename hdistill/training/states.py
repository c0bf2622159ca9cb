"""Trees of arrays in files: raw bytes behind a header of JSON, whole or not at all, checked."""

import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from hdistill.files import whole
from hdistill.training.processes import is_key


def write_tree(path: pathlib.Path, tree, record: dict) -> None:
    """Writes the leaves of a tree and a record; on disk on return.

    Raises:
      OSError: it could not be written, as on a full disk; the message names the file.
    """
    arrays = [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    kinds = [[array.dtype.name, array.shape] for array in arrays]
    header = {"leaves": kinds, "record": record, "sha256": digest.hexdigest()}
    try:
        with whole(path) as file:
            file.write(json.dumps(header).encode() + b"\n")
            for array in arrays:
                file.write(np.ascontiguousarray(array).tobytes())
    except OSError as error:
        raise OSError(f"{path} was not written: {error.strerror}; what is there stands") from error


def read_tree(path: pathlib.Path, like):
    """(the tree, its record) that `write_tree` wrote; None where there is none, or it is damaged.

    Args:
      like: a tree of the same structure, shapes and dtypes; the leaves go to where its leaves are.
    """
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        header = json.loads(head)
        sound = hashlib.sha256(body).hexdigest() == header["sha256"]
        kinds, record = header["leaves"], header["record"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    leaves, structure = jax.tree.flatten(like)
    if not sound or len(kinds) != len(leaves):
        return None
    read, place = [], 0
    for (name, shape), leaf in zip(kinds, leaves):
        dtype = jnp.dtype(name)
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(body[place : place + size], dtype).reshape(shape)
        read.append(_placed(array, leaf))
        place += size
    return jax.tree.unflatten(structure, read), record


def _placed(array: np.ndarray, like):
    """An array of JAX on the devices of another leaf, committed to them where that is.

    Else a program would be compiled again for it.
    """
    if is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    committed = getattr(like, "committed", False)
    return jax.device_put(array, like.sharding) if committed else jnp.asarray(array)
