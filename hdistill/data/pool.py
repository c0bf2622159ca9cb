"""Image pools: a data set decoded once into one .npz, and tasks drawn from it."""

import dataclasses
import math
import pathlib
import zipfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hdistill.checks.values import check_count
from hdistill.files import whole

CLASSES = 100_000  # that a pool may name


class Examples(NamedTuple):
    """Images and labels: uint8 [N, H, W, 3] and int32 [N]."""

    images: jax.Array
    labels: jax.Array


class ImageTask(NamedTuple):
    """A classification task: the examples to train on and, apart, those to test on."""

    inner: Examples
    outer: Examples


@dataclasses.dataclass(frozen=True)
class Pool:
    """A data set in memory.

    Attributes:
      images: uint8 [N, H, W, 3].
      labels: int32 [N], 0..C-1.
      names: the C classes' names.
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(
                f"images: dtype {images.dtype} and shape {images.shape}; "
                "expected uint8 [N, H, W, 3]"
            )
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"labels: dtype {labels.dtype} and shape {labels.shape}; expected integers "
                f"[{images.shape[0]}], one for each image"
            )
        if not all(isinstance(name, str) and not name.endswith("\0") for name in self.names):
            raise ValueError(
                f"names={self.names!r}: expected a name for each class, without zeros at its end"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.names):
            raise ValueError(
                f"labels: from {labels.min()} to {labels.max()}; expected 0..{len(self.names) - 1}"
            )

    @classmethod
    def load(cls, path: pathlib.Path) -> "Pool":
        """Reads a pool that `save` wrote (or anything with the same three arrays).

        Raises:
          ValueError: a file that is not a pool; the message names it.
        """
        expected = "expected a pool, an .npz with images uint8 [N, H, W, 3], labels [N] and names"
        try:
            with np.load(path) as file:
                _check_headers(path)
                images, labels, names = file["images"], file["labels"], file["names"]
        except FileNotFoundError:
            raise
        except Exception as error:  # NumPy and zipfile raise many kinds for such a file
            raise ValueError(f"{path} is not a pool, or is damaged: {expected}") from error
        try:
            pool = cls(images, labels, tuple(np.atleast_1d(names).tolist()))
        except ValueError as error:
            raise ValueError(f"{path}: {error}; {expected}") from error
        return dataclasses.replace(pool, labels=labels.astype(np.int32))  # checked before

    def save(self, path: pathlib.Path) -> None:
        """Writes the pool, uncompressed, whole or not at all."""
        with whole(path) as file:
            np.savez(file, images=self.images, labels=self.labels, names=np.array(self.names))

    def by_class(self, classes) -> np.ndarray:
        """The images of the given classes, uint8 [classes, per class, H, W, 3].

        Raises:
          ValueError: a class that is not there, or classes of different sizes.
        """
        groups = [np.flatnonzero(self.labels == c) for c in classes]
        sizes = {len(group) for group in groups}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"classes={list(classes)}: expected as many images of each, found {sorted(sizes)}"
            )
        return self.images[np.stack(groups)]


def _check_headers(path: pathlib.Path) -> None:
    """The arrays fit each other by their headers, before any of them is read."""
    shapes = {}
    with zipfile.ZipFile(path) as file:
        for name in ("images", "labels", "names"):
            with file.open(f"{name}.npy") as member:
                version = np.lib.format.read_magic(member)
                read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
                shapes[name], _, dtype = read(member)
                if name == "images" and (dtype != np.uint8 or len(shapes[name]) != 4):
                    raise ValueError(f"images: dtype {dtype} and shape {shapes[name]}")
    if shapes["labels"] != shapes["images"][:1] or shapes["images"][-1] != 3:
        raise ValueError(f"shapes {shapes}")
    if math.prod(shapes["names"]) > CLASSES:
        raise ValueError(f"names: shape {shapes['names']}")


def sample_task(key, images, *, ways: int, corruption: float = 0.0) -> ImageTask:
    """Draws `ways` classes, splits their images at random into halves, relabels them 0..ways-1.

    The paper's task: 10 classes of 500 images, 2500 to train on and 2500 to test on; for
    MetaWeightNet each training label is replaced, with probability 0.4, by one drawn uniformly
    from all the classes (so that it stays what it was one time in `ways`).

    Examples:
      >>> from hdistill.data.pool import sample_task
      >>> images = jnp.zeros((20, 100, 32, 32, 3), jnp.uint8)  # 20 classes of 100 images
      >>> task = sample_task(jax.random.key(0), images, ways=10)
      >>> task.inner.images.shape, task.outer.labels.shape
      ((500, 32, 32, 3), (500,))

    Args:
      key: PRNG key.
      images: uint8 [classes, per class, H, W, 3], from `Pool.by_class`.
      ways: classes of the task.
      corruption: probability that a training label is replaced.

    Returns:
      An `ImageTask`, each half with ways · per class / 2 examples in random order. No image is in
      both.

    Raises:
      ValueError: images of another shape, more ways than classes, or a corruption outside [0, 1].
    """
    images = jnp.asarray(images)
    classes, per_class = _check_images(images, ways)
    if not 0 <= corruption <= 1:
        raise ValueError(f"corruption={corruption}: expected a probability")
    class_key, order_key, corrupt_key, label_key = jax.random.split(key, 4)
    chosen = jax.random.permutation(class_key, classes)[:ways]
    order = jax.random.permutation(order_key, ways * per_class)
    labels = (order // per_class).astype(jnp.int32)
    drawn = Examples(images[chosen[labels], order % per_class], labels)
    half = ways * per_class // 2
    inner, outer = (
        jax.tree.map(lambda x, s=s: x[s], drawn) for s in (slice(half), slice(half, None))
    )
    noisy = replace_labels(corrupt_key, label_key, inner.labels, corruption, ways)
    return ImageTask(inner._replace(labels=noisy), outer)


def sample_shots(key, images, *, ways: int, shots: int) -> ImageTask:
    """Draws a few-shot task: `shots` images of each of `ways` classes, and their others to test on.

    Examples:
      >>> from hdistill.data.pool import sample_shots
      >>> letters = jnp.zeros((30, 20, 28, 28, 3), jnp.uint8)  # 30 classes of 20 images
      >>> task = sample_shots(jax.random.key(0), letters, ways=5, shots=1)
      >>> task.inner.images.shape, task.outer.labels.shape
      ((5, 28, 28, 3), (95,))

    Args:
      key: PRNG key.
      images: uint8 [classes, per class, H, W, 3], from `Pool.by_class`.
      ways: classes of the task, relabelled 0..ways-1.
      shots: images of each to train on.

    Returns:
      An `ImageTask`, its examples class by class. No image is in both.

    Raises:
      ValueError: images of another shape, more ways than classes, or shots that leave no image to
        test on.
    """
    images = jnp.asarray(images)
    classes, per_class = _check_images(images, ways)
    if check_count("shots", shots) >= per_class:
        raise ValueError(f"shots={shots}: expected 1..{per_class - 1}, of {per_class} images each")
    class_key, order_key = jax.random.split(key)
    chosen = jax.random.permutation(class_key, classes)[:ways]
    keys = jax.random.split(order_key, ways)
    order = jax.vmap(lambda one: jax.random.permutation(one, per_class))(keys)
    drawn = images[chosen[:, None], order]
    labels = jnp.broadcast_to(jnp.arange(ways, dtype=jnp.int32)[:, None], (ways, per_class))

    def part(which):
        return Examples(
            drawn[:, which].reshape(-1, *images.shape[2:]), labels[:, which].reshape(-1)
        )

    return ImageTask(part(slice(shots)), part(slice(shots, None)))


def _check_images(images, ways: int) -> tuple[int, int]:
    """(classes, images of each); raises ValueError for another shape or too many ways."""
    if images.ndim != 5:
        raise ValueError(f"images: shape {images.shape}; expected [classes, per class, H, W, 3]")
    classes, per_class = images.shape[:2]
    if check_count("ways", ways) > classes:
        raise ValueError(f"ways={ways}: expected 1..{classes}, the number of classes")
    return classes, per_class


def replace_labels(which_key, label_key, labels, probability: float, ways: int):
    """Labels, int32 [N], each replaced with the probability by one drawn uniformly from `ways`."""
    replaced = jax.random.bernoulli(which_key, probability, labels.shape)
    drawn = jax.random.randint(label_key, labels.shape, 0, ways, jnp.int32)
    return jnp.where(replaced, drawn, labels)
