"""CIFAR-100, CIFAR-10 and TinyImageNet as pools, decoded once."""

import pathlib

from hdistill.data.pool import Pool

NAMES = ("cifar100", "cifar10-train", "cifar10-test", "tinyimagenet32", "tinyimagenet64")


def load(name: str, data_dir) -> Pool:
    """The pool of a data set, `data_dir`/NAME.npz.

    Args:
      name: one of `NAMES`. The number after TinyImageNet is the images' height and width.
      data_dir: folder of the pools.

    Raises:
      ValueError: another name.
      FileNotFoundError: no pool there.
    """
    if name not in NAMES:
        raise ValueError(f"name={name!r}: expected one of {NAMES}")
    ready = pathlib.Path(data_dir) / f"{name}.npz"
    if not ready.exists():
        raise FileNotFoundError(f"{ready}: no such pool")
    return Pool.load(ready)
