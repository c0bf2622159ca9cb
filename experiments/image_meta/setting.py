"""The image study: tasks of ten classes of a data set, one of three models, Reptile or FOMAML."""

import dataclasses
import pathlib
from typing import Literal

import jax
import jax.numpy as jnp
import optax

import hdistill as hd
from experiments.image_meta.presets import Preset, PresetName, protocol
from experiments.methods import Method
from experiments.run.cpu import cores
from experiments.run.distributed import spread
from experiments.run.images import WAYS, digest, generated, weighting
from experiments.run.study import Setting, shared
from hdistill.checks.values import check_choice
from hdistill.data import images
from hdistill.data.augment import draw_batch, normalize, shrink
from hdistill.data.datasets import DATASETS
from hdistill.data.pool import sample_task
from hdistill.models.anil import Anil
from hdistill.models.metaweightnet import MetaWeightNet
from hdistill.models.warpgrad import WarpGrad

MODELS = {"anil": Anil, "warpgrad": WarpGrad, "metaweightnet": MetaWeightNet}


def make_setting(
    model_name: str,
    dataset: str = "cifar100",
    init: str = "reptile",
    preset_name: PresetName = "cpu",
    *,
    data_dir: pathlib.Path | None,
    image_size: int | None = None,
    hyper_optimizer: Literal["sgd", "adam"] = "sgd",
) -> Setting:
    """A model on a data set under a preset.

    Args:
      init: "reptile" or "fomaml".
      data_dir: folder of the images' pools; None for generated images.
      image_size: height and width of the images; None for the preset's.
      hyper_optimizer: "sgd" or "adam", of λ (`Preset`).

    Raises:
      ValueError: another model, data set, initialisation or optimizer.
    """
    check_choice("model", model_name, MODELS)
    check_choice("dataset", dataset, [name for name, d in DATASETS.items() if d.split])
    check_choice("hyper_optimizer", hyper_optimizer, ("sgd", "adam"))
    preset = dataclasses.replace(protocol(preset_name, model_name), hyper_optimizer=hyper_optimizer)
    if image_size is not None:
        sizes = [pool.size for pool in DATASETS[dataset].pools.values()]
        if not 1 <= image_size <= max(sizes):
            raise ValueError(f"image_size={image_size}: expected 1..{max(sizes)}, for {dataset}")
        preset = dataclasses.replace(preset, image_size=image_size)
    model = MODELS[model_name](WAYS, preset.channels)
    optimizer = optax.sgd(preset.inner_rate, momentum=preset.momentum)
    losses = model.inner_loss, model.outer_loss
    problem = hd.from_losses(*losses, optimizer)
    data_dir = None if preset_name == "smoke" else data_dir
    pools = class_images(dataset, preset.image_size, data_dir)

    initialize = jax.jit(model.init)

    def start(key):
        shape = 2, preset.image_size, preset.image_size, 3
        hparams, params = initialize(key, jnp.zeros(shape))
        return hparams, hd.InnerState(params, optimizer.init(params))

    def one_task(key, images):
        return sample_task(key, images, ways=WAYS, corruption=preset.corruption)

    def batch(key, examples):
        return draw_batch(key, examples, preset.batch, preset.pad)

    def make_learner(method: Method) -> hd.Learner:
        rules = {
            "reptile": lambda: hd.reptile(preset.reptile_rate),
            "fomaml": lambda: hd.fomaml(optax.adam(preset.fomaml_rate)),
        }
        estimator = method.estimator(setting)
        learner = hd.learner(
            method.problem(setting),
            estimator,
            hyper_optimizer=make_hyper_optimizer(preset, method, estimator),
            initialization=rules[init](),
            horizon=preset.horizon,
            sample_inner=inner_batch,
            sample_outer=lambda key, task: batch(key, task.outer),
            **when(preset, method, estimator),
        )
        devices = cores(preset.meta_batch)
        return spread(learner, devices) if devices else learner

    sample = jax.jit(jax.vmap(one_task, (0, None)))

    def tasks(key, m):
        keys = jax.random.split(jax.random.fold_in(key, m), preset.meta_batch)
        return sample(keys, pools["train"])

    @jax.jit
    def draw(key, images):
        task_key, inner_key, outer_key = jax.random.split(key, 3)
        task = one_task(task_key, images)
        keys = jax.random.split(inner_key, preset.horizon)
        batches = jax.lax.map(lambda key: batch(key, task.inner), keys)
        return batches, batch(outer_key, task.outer)

    def measure(weights, hparams, task):
        return accuracy(model, weights.params, hparams, task.outer, preset.batch)

    draws = {part: jax.tree_util.Partial(one_task, images=images) for part, images in pools.items()}

    def inner_batch(key, task):
        return batch(key, task.inner)

    def evaluate(hparams, weights, key, part):
        count = {"validation": preset.validation_tasks, "test": preset.test_tasks}[part]
        return hd.evaluate(
            problem,
            hparams,
            weights,
            draws[part],
            horizon=preset.horizon,
            metric=measure,
            sample_inner=inner_batch,
            key=key,
            batch_size=preset.meta_batch,
            count=count,
            devices=cores(preset.meta_batch),
        )

    def leave(before, state, key):
        if model_name != "metaweightnet":
            return {}
        return {"weighting.json": weighting(model, before, state.hparams)}

    setting = Setting(
        {"study": "image_meta", "model": model_name, "dataset": dataset, "init": init}
        | {"preset": preset_name, "data": digest(pools)}
        | shared(preset),
        problem,
        hd.from_losses(*losses, optimizer, surrogate=optax.sgd(preset.inner_rate)),
        preset.horizon,
        preset.inner_optimisations,
        "accuracy",
        start,
        tasks,
        lambda key: draw(key, pools["train"]),
        preset.arguments,
        make_learner,
        evaluate,
        preset.validate_every,
        leave,
    )
    return setting


def accuracy(model, params, hparams, examples, size: int):
    """On the examples, in batches of `size`, whose statistics normalise them."""
    size = min(size, len(examples.labels))
    whole = len(examples.labels) // size * size
    batches = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), examples)

    def one(batch):
        return model.accuracy(params, hparams, (normalize(batch.images), batch.labels))

    return jax.lax.map(one, batches).mean()


def when(preset: Preset, method: Method, estimator) -> dict:
    """Gives the steps at which λ moves and θ is fitted, as arguments of the learner."""
    every = {"every": preset.every} if isinstance(estimator, hd.Estimator) else {}
    if "last" in method.arguments:
        every = {}
    return every | method.learner_arguments


def make_hyper_optimizer(preset: Preset, method: Method, estimator):
    """That of λ."""
    if preset.hyper_optimizer == "adam":
        return optax.adam(method.arguments["hyper_rate"])
    return optax.sgd(hyper_schedule(preset, method, estimator), momentum=preset.momentum)


def hyper_schedule(preset: Preset, method: Method, estimator):
    """λ's learning rate by the number of its updates, down to 0 at the end of the run."""
    moves = when(preset, method, estimator)
    if not isinstance(estimator, hd.Estimator):
        each = 1
    else:
        each = moves["last"] if "last" in moves else preset.horizon // preset.every
    rate = method.arguments["hyper_rate"]
    return optax.linear_schedule(rate, 0.0, each * preset.inner_optimisations)


def class_images(dataset: str, size: int, data_dir: pathlib.Path | None) -> dict:
    """The images of the three splits' classes, uint8 [classes, per class, H, W, 3] each.

    Generated where there is no folder of pools.
    """
    record = DATASETS[dataset]
    parts = record.split._asdict() if record.split else {}
    if data_dir is None:
        return {part: generated(size, i) for i, part in enumerate(parts)}
    large = [name for name, pool in record.pools.items() if pool.size >= size]
    name = min(large, key=lambda name: record.pools[name].size)
    pool = images.load(name, data_dir)
    return {
        part: jnp.asarray(shrink(pool.by_class(classes), size)) for part, classes in parts.items()
    }
