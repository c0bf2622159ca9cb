"""Batches of an ordinary Python function, stacked by segments and loaded ahead in a thread."""

import concurrent.futures
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hdistill.checks.values import Signature, check_arrays
from hdistill.training.processes import is_key


class HostBatches:
    """Batches of stretches of inner steps, the next one loaded while one is used.

    Use within a `with` block.

    Args:
      name: of the function, for messages.
      batch_at: t -> batch, a pytree of arrays, called in another thread, for one t at a time.
      first: t of a batch that shows structure, shapes and dtypes.
    """

    def __init__(self, name: str, batch_at: Callable, first: int = 0):
        self.name, self._batch_at = name, batch_at
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._ahead: tuple = ()  # (numbers, what is loaded)
        example = self._asked(first)
        check_arrays(f"{name}({first})", jax.tree.map(_array, example))
        self.example = jax.tree.map(_array, example)
        self._kind = Signature.of(self.example)

    def __enter__(self) -> "HostBatches":
        return self

    def __exit__(self, *error) -> None:
        self._thread.shutdown(cancel_futures=True)

    def stacked(self, numbers: range, then: range | None = None):
        """(batches [S, ...] of these t, the checksum of each).

        Args:
          then: what will be asked next.
        """
        loaded = self._ahead[1] if self._ahead[:1] == (numbers,) else self._load(numbers)
        batches = loaded.result()
        self._ahead = (then, self._load(then)) if then else ()
        return batches

    def _load(self, numbers: range) -> concurrent.futures.Future:
        return self._thread.submit(self._stack, numbers)

    def _stack(self, numbers: range):
        each = []
        for t in numbers:
            batch = jax.tree.map(_array, self._asked(t))
            self._kind.check(f"{self.name}({t})", batch)
            each.append(batch)
        return jax.tree.map(_stacked, *each), [checksum_of(batch) for batch in each]

    def _asked(self, t: int):
        try:
            return self._batch_at(t)
        except Exception as error:
            raise ValueError(
                f"{self.name}({t}) raised {type(error).__name__}: {error}; expected a batch for "
                "each step, whenever it is asked for"
            ) from error


def _array(leaf):
    return leaf if is_key(leaf) else np.asarray(leaf)


def _stacked(*leaves):
    return jnp.stack(leaves) if is_key(leaves[0]) else np.stack(leaves)


def checksum_of(tree) -> int:
    """CRC-32 of the leaves' bytes."""
    value = 0
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        value = zlib.crc32(np.ascontiguousarray(array).tobytes(), value)
    return value
