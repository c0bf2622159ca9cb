"""CIFAR-100, CIFAR-10 and TinyImageNet as pools: decoded once, loaded in a second."""

import pathlib
from typing import NamedTuple

import numpy as np

from hdistill.data.augment import shrink
from hdistill.data.pool import Pool


class _Source(NamedTuple):
    """Where a pool comes from.

    Attributes:
      builder: the data set of TensorFlow Datasets.
      split: its split.
      size: height and width of the pool's images.
    """

    builder: str
    split: str
    size: int


SOURCES = {
    "cifar100": _Source("cifar100", "train", 32),
    "cifar10-train": _Source("cifar10", "train", 32),
    "cifar10-test": _Source("cifar10", "test", 32),
    "tinyimagenet64": _Source("tiny_imagenet", "train", 64),
    "tinyimagenet32": _Source("tiny_imagenet", "train", 32),
}


def load(name: str, data_dir) -> Pool:
    """The pool of an image set, from the first of these that is there:

        DATA_DIR/NAME.npz               a pool, used as it is
        DATA_DIR/cifar100/3.0.2/ ...    a set that TensorFlow Datasets has prepared
        DATA_DIR/manual/FILE            the published archive, put there by hand
        the archive's URL               (about 170 MB for CIFAR, 250 MB for TinyImageNet)

    and leaves the pool in DATA_DIR/NAME.npz. TensorFlow is not needed; TensorFlow Datasets and
    Pillow are, unless the pool is there.

    Args:
      name: "cifar100" (its 500 training images for each class), "cifar10-train", "cifar10-test",
        "tinyimagenet64" or "tinyimagenet32" (each pixel the mean of four).
      data_dir: folder.

    Returns:
      A `Pool`, sorted by class; classes in CIFAR's own order or by sorted WordNet id.

    Raises:
      ValueError: another name; an archive that is not the published one, with the size and the
        checksum that were expected.
      FileNotFoundError: none of the four; says what was looked for, sizes and checksums.
    """
    if name not in SOURCES:
        raise ValueError(f"name={name!r}: expected one of {sorted(SOURCES)}")
    root = pathlib.Path(data_dir).expanduser().resolve()
    ready = root / f"{name}.npz"
    if ready.exists():
        return Pool.load(ready)
    source = SOURCES[name]
    pool = _decode(source, root)
    pool.save(ready)
    return pool


def _decode(source: _Source, root: pathlib.Path) -> Pool:
    # Here, since a ready pool needs neither.
    from tqdm import tqdm

    from hdistill.data.builders import BUILDERS

    builder = BUILDERS[source.builder](data_dir=root)
    builder.prepare(root)
    examples = tqdm(builder.as_data_source(source.split), desc=f"decoding {source.builder}")
    rows = sorted(examples, key=lambda row: (row["label"], row["id"]))
    return Pool(
        shrink(np.stack([row["image"] for row in rows]), source.size),
        np.array([row["label"] for row in rows], np.int32),
        tuple(builder.info.features["label"].names),
    )
