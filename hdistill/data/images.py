"""CIFAR-100, CIFAR-10, TinyImageNet and Omniglot as pools: decoded once, loaded in a second."""

import pathlib

import numpy as np

from hdistill.data.augment import shrink
from hdistill.data.datasets import DATASETS, Dataset, PoolOf
from hdistill.data.pool import Pool
from hdistill.progress import progress


def load(name: str, data_dir) -> Pool:
    """The pool of an image set, from the first of these that is there:

        DATA_DIR/NAME.npz               a pool, used as it is
        DATA_DIR/cifar100/3.0.2/ ...    a set that TensorFlow Datasets has prepared
        DATA_DIR/manual/FILE            the published archive, put there by hand
        the archive's URL               (CIFAR: 170 MB, TinyImageNet: 250, Omniglot: 16)

    and leaves the pool in DATA_DIR/NAME.npz. TensorFlow is not needed; TensorFlow Datasets and
    Pillow are, unless the pool is there.

    Args:
      name: "cifar100" (its 500 training images for each class), "cifar10-train", "cifar10-test",
        "tinyimagenet64" or "tinyimagenet32" (each pixel the mean of four), "omniglot-background" or
        "omniglot-evaluation" (20 drawings of each letter, 28x28).
      data_dir: folder.

    Returns:
      A `Pool`, sorted by class; classes in CIFAR's own order or by sorted name.

    Raises:
      ValueError: another name; an archive that is not the published one, with the size and the
        checksum that were expected.
      FileNotFoundError: none of the four, or a download that breaks off; says what was looked for,
        sizes and checksums.
    """
    sources = {pool: dataset for dataset in DATASETS.values() for pool in dataset.pools}
    if name not in sources:
        raise ValueError(f"name={name!r}: expected one of {sorted(sources)}")
    dataset, root = sources[name], pathlib.Path(data_dir).expanduser().resolve()
    ready, kind = root / f"{name}.npz", dataset.pools[name]
    if not ready.exists():
        _decode(dataset, kind, root).save(ready)
    pool = Pool.load(ready)
    expected = dataset.classes, (kind.size, kind.size)
    if (len(pool.names), pool.images.shape[1:3]) != expected:
        raise ValueError(
            f"{ready}: {len(pool.names)} classes of images {pool.images.shape[1:3]}; expected "
            f"{expected[0]} of {expected[1]}"
        )
    missing = dataset.classes - len(np.unique(pool.labels))
    if missing:
        raise ValueError(f"{ready}: no image of {missing} of the {dataset.classes} classes")
    return pool


def _decode(dataset: Dataset, kind: PoolOf, root: pathlib.Path) -> Pool:
    # Here, because a ready pool does not need it.
    from hdistill.data import builders

    builder = getattr(builders, dataset.builder)(data_dir=root)
    builder.prepare(root, dataset.archive)
    source = builder.as_data_source(kind.split)
    examples = progress(source, f"decoding {dataset.builder}")
    rows = sorted(examples, key=lambda row: (row["label"], row["id"]))
    return Pool(
        shrink(np.stack([row["image"] for row in rows]), kind.size),
        np.array([row["label"] for row in rows], np.int32),
        tuple(builder.info.features["label"].names),
    )
