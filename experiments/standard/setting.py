"""Standard learning: MetaWeightNet on CIFAR-10, its two streams, its images, its wrong labels."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hdistill as hd
from experiments.methods import Method
from experiments.run.images import WAYS, digest, generated
from experiments.standard.presets import PRESETS, Preset
from hdistill.data import images
from hdistill.data.augment import draw_batch, normalize, shrink
from hdistill.data.pool import Examples, replace_labels
from hdistill.models.metaweightnet import MetaWeightNet
from hdistill.training import RunFolder


class Setting(NamedTuple):
    """The problem, images and streams that the methods share.

    Attributes:
      protocol: all that decides a result beside the method and the seed, for config.json.
      preset: the same, to be read.
      model: MetaWeightNet.
      problem: Φ and L_val.
      momentum_free: the same, with plain gradient descent for its surrogate.
      horizon: T of a stretch.
      train: the training images with their clean labels.
      start: key -> (λ, w_0).
      stream: (estimator, optimizer of λ, every) -> `hd.Stream`.
      accuracy: (weights, λ) -> on the test images.
    """

    protocol: dict
    preset: Preset
    model: MetaWeightNet
    problem: hd.Problem
    momentum_free: hd.Problem
    horizon: int
    train: Examples
    start: Callable
    stream: Callable
    accuracy: Callable

    def stages(self, method: Method) -> tuple[hd.Stream, hd.Stream]:
        """λ learnt by the method, which may be not at all; then λ rests."""
        preset, rest = self.preset, optax.set_to_zero()
        moving = optax.sgd(method.arguments["hyper_rate"], momentum=preset.momentum)
        still = self.stream(hd.online.first_order(self.problem), rest, 1)
        if method.name == "unlearnt":
            return still, still
        estimator = method.estimator(self)
        if not isinstance(estimator, hd.Estimator):
            raise ValueError(f"method={method.name!r}: expected an online one, a stream has no end")
        return self.stream(estimator, moving, method.arguments.get("last", 1)), still


def make_setting(preset_name: str, data_dir: pathlib.Path) -> Setting:
    """The study under a preset."""
    preset = PRESETS[preset_name]
    train, test = load(preset_name, preset, data_dir)
    model = MetaWeightNet(WAYS, preset.channels)
    optimizer = optax.sgd(preset.learning_rate, momentum=preset.momentum)
    losses = model.inner_loss, model.outer_loss
    problem = hd.from_losses(*losses, optimizer)

    initialize = jax.jit(model.init)

    def start(key):
        shape = 2, preset.image_size, preset.image_size, 3
        hparams, params = initialize(key, jnp.zeros(shape))
        return hparams, hd.InnerState(params, optimizer.init(params))

    def batch(key, examples):
        return draw_batch(key, examples, preset.batch, preset.pad)

    def stream(estimator, hyper_optimizer, every):
        return hd.stream(
            problem,
            estimator,
            hyper_optimizer=hyper_optimizer,
            steps=preset.stretch,
            every=every,
            sample_inner=lambda key, task: batch(key, task[0]),
            sample_outer=lambda key, task: batch(key, task[1]),
        )

    @jax.jit
    def accuracy(weights, hparams):
        """In batches of 100, whose statistics normalise them."""
        size = min(100, test.labels.shape[0])
        order = jax.random.permutation(jax.random.key(0), test.labels.shape[0])
        whole = order[: order.size // size * size].reshape(-1, size)

        def one(index):
            batch = normalize(test.images[index]), test.labels[index]
            return model.accuracy(weights.params, hparams, batch)

        return jax.lax.map(one, whole).mean()

    return Setting(
        {"study": "standard", "preset": preset_name, "data": digest((train, test))}
        | dataclasses.asdict(preset),
        preset,
        model,
        problem,
        hd.from_losses(*losses, optimizer, surrogate=optax.sgd(preset.learning_rate)),
        preset.stretch,
        train,
        start,
        stream,
        accuracy,
    )


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


def tasks_of(setting: Setting, corrupt_key, half_key) -> tuple:
    """Draws the tasks of the two stages, (images for Φ, images for L_val) each."""
    corrupted = corrupt(corrupt_key, setting.train, setting.preset.corruption)
    return halves(half_key, corrupted, setting.train), (corrupted, setting.train)


def stage(setting: Setting, step: Callable, state, task, training: Callable, accuracy: Callable):
    """Trains by one of the two streams, one run or several; returns the result of `training`."""
    preset = setting.preset
    total = preset.steps // preset.stretch

    def validate(m, state):
        if m % preset.validate_every and m != total:
            return {}
        return {"accuracy": np.asarray(accuracy(state.weights, state.hparams)).tolist()}

    return training(step, state, lambda m: task, total=total, validate=validate, unit="stretch")


def retrain_folder(folder: RunFolder) -> RunFolder:
    """The folder of the second stage, in that of the first."""
    config = folder.config | {"stage": "retraining"}
    return RunFolder(folder.claim("retrain"), config, resume=True, fallback=folder.fallback)


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
