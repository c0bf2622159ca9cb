"""The image data sets, one record each: where they come from, their pools, their classes."""

from typing import NamedTuple

from hdistill.data.archives import Archive


class ClassSplit(NamedTuple):
    """Half-open ranges of class indices for meta-training, -validation and -testing."""

    train: range
    validation: range
    test: range


class PoolOf(NamedTuple):
    """A pool's part of a data set: a split of TensorFlow Datasets, at a height and width."""

    split: str
    size: int


class Dataset(NamedTuple):
    """An image data set.

    Attributes:
      builder: the class in `hdistill.data.builders` that reads the archive.
      archive: what is downloaded, or put by hand.
      classes: how many.
      pools: by name, `DATA_DIR/NAME.npz`.
      split: of its classes, for tasks; None where it is for standard learning only.
    """

    builder: str
    archive: Archive
    classes: int
    pools: dict[str, PoolOf]
    split: ClassSplit | None = None


# Sizes and sums of the CIFARs and of Omniglot as TensorFlow Datasets 4.9.10 has them; classes split
# as in Section 5 of Lee et al. 2022: 50/20/30 by index, and 100/40/60 by sorted WordNet id.
DATASETS = {
    "cifar10": Dataset(
        "Cifar10",
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
        10,
        {"cifar10-train": PoolOf("train", 32), "cifar10-test": PoolOf("test", 32)},
    ),
    "cifar100": Dataset(
        "Cifar100",
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            168513733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
        100,
        {"cifar100": PoolOf("train", 32)},
        ClassSplit(range(50), range(50, 70), range(70, 100)),
    ),
    "tinyimagenet": Dataset(
        "TinyImagenet",
        Archive(
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            248100043,
            "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
        ),
        200,
        {"tinyimagenet64": PoolOf("train", 64), "tinyimagenet32": PoolOf("train", 32)},
        ClassSplit(range(100), range(100, 140), range(140, 200)),
    ),
    # Lake et al. 2015: 30 alphabets to learn from, 20 others to test on.
    "omniglot-background": Dataset(
        "OmniglotBackground",
        Archive(
            "https://github.com/brendenlake/omniglot/raw/master/python/images_background.zip",
            9464212,
            "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        ),
        964,
        {"omniglot-background": PoolOf("train", 28)},
    ),
    "omniglot-evaluation": Dataset(
        "OmniglotEvaluation",
        Archive(
            "https://github.com/brendenlake/omniglot/raw/master/python/images_evaluation.zip",
            6462886,
            "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
        ),
        659,
        {"omniglot-evaluation": PoolOf("train", 28)},
    ),
}
