"""Standard learning's protocol: its presets, its images and which labels are wrong."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.image_protocol import WAYS, generated
from hdistill.data import images
from hdistill.data.augment import shrink
from hdistill.data.pool import Examples, replace_labels


@dataclasses.dataclass(frozen=True)
class Preset:
    """A protocol. The defaults are Appendix H's; where it is silent, Section 5's.

    Attributes:
      image_size: height and width; larger images are averaged down.
      channels: of every convolution.
      batch: images of an inner step, and of an outer loss.
      pad: largest shift of the random crop, pixels.
      steps: T, inner steps of either stage.
      stretch: inner steps of one compiled call, between two lines of metrics.jsonl.
      learning_rate: of SGD with momentum 0.9, for w and for λ.
      corruption: probability that a training label is replaced.
      validate_every: stretches between two tests.
      seeds: runs.
    """

    image_size: int = 32
    channels: int = 32
    batch: int = 100
    pad: int = 4
    steps: int = 10_000
    stretch: int = 100
    learning_rate: float = 0.01
    corruption: float = 0.4
    validate_every: int = 5
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    # Does it run at all? Generated images, about a minute a method, compiling.
    "smoke": Preset(
        image_size=8,
        channels=4,
        batch=10,
        pad=1,
        steps=20,
        stretch=10,
        validate_every=1,
        seeds=(0,),
    ),
    # All real images and steps, a quarter of the pixels, half the channels, a third of the batch:
    # minutes a run on 2 cores.
    "cpu": Preset(image_size=16, channels=16, batch=32, pad=2, validate_every=20, seeds=(0, 1, 2)),
    "paper": Preset(),
}


def load(preset_name: str, preset: Preset, data_dir: pathlib.Path) -> tuple[Examples, Examples]:
    """CIFAR-10's training and test images; the smoke preset generates some."""
    if preset_name == "smoke":
        pixels = generated(preset.image_size, 0, WAYS, 40)
        labels = np.tile(np.arange(WAYS, dtype=np.int32)[:, None], (1, 40))

        def part(p):
            shown = pixels[:, p].reshape(-1, *pixels.shape[2:])
            return Examples(shown, jnp.asarray(labels[:, p].ravel()))

        return part(slice(30)), part(slice(30, None))

    def decoded(name):
        pool = images.load(name, data_dir)
        pixels = jnp.asarray(shrink(pool.images, preset.image_size))
        return Examples(pixels, jnp.asarray(pool.labels))

    return decoded("cifar10-train"), decoded("cifar10-test")


def corrupt(key, examples: Examples, probability: float) -> Examples:
    """The examples, each label replaced with the probability (`replace_labels`)."""
    which_key, label_key = jax.random.split(key)
    labels = replace_labels(which_key, label_key, examples.labels, probability, WAYS)
    return examples._replace(labels=labels)


def halves(key, corrupted: Examples, clean: Examples) -> tuple[Examples, Examples]:
    """A random half of the images with their corrupted labels, the other half with clean ones."""
    order = jax.random.permutation(key, clean.labels.shape[0])
    middle = order.size // 2
    inner = jax.tree.map(lambda x: x[order[:middle]], corrupted)
    return inner, jax.tree.map(lambda x: x[order[middle:]], clean)
