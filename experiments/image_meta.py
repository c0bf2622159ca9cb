"""Image meta-learning: Section 5 and Appendix J of Lee et al. 2022, Table 2 and Figures 2, 5, 6, 7.

    python -m experiments.image_meta --preset smoke                       generated images, no data
    python -m experiments.image_meta --model warpgrad --data-dir data     all methods, preset cpu
    python -m experiments.image_meta --model metaweightnet --method hyperdistill --resume
    python -m experiments.image_meta --preset paper --dataset tinyimagenet --init fomaml

Each run has a folder OUT/MODEL-DATASET-INIT/METHOD/seed-S with config.json, metrics.jsonl,
summary.json and checkpoints/; OUT/MODEL-DATASET-INIT gets the table and the plots.
"""

import dataclasses
import pathlib
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import hdistill as hd
from experiments.common.folder import RunFolder
from experiments.common.loop import NonFiniteLoss, meta_train
from experiments.common.methods import METHODS, Method, MethodName, descent, methods
from experiments.common.runs import run_seeds, spent
from experiments.image_protocol import (
    MODELS,
    MOMENTUM,
    WAYS,
    DatasetName,
    ModelName,
    Preset,
    PresetName,
    class_images,
    protocol,
)
from experiments.image_report import report, write_weighting
from hdistill.checks import check_gamma
from hdistill.data.augment import draw_batch, normalize
from hdistill.data.pool import sample_task

# Online RMD is exact and 50 times one-step's price: it runs when it is asked for by name.
UNASKED = ("rmd",)


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      model: which parameters are λ.
      dataset: whose classes.
      method: one method, or all of them but online RMD, which is for the patient.
      init: how the initial weights learn.
      preset: the protocol.
      seed: seeds to run; none for the preset's.
      gamma: γ of HyperDistill, each a run; none for the preset's.
      image_size: height and width of the images; none for the preset's. TinyImageNet has 64.
      data_dir: folder of the images' pools.
      out: the folder for results.
      resume: go on with the runs in `out` where they stopped.
    """

    model: ModelName = "warpgrad"
    dataset: DatasetName = "cifar100"
    method: Literal["all"] | MethodName = "all"
    init: Literal["reptile", "fomaml"] = "reptile"
    preset: PresetName = "cpu"
    seed: tuple[int, ...] = ()
    gamma: tuple[float, ...] = ()
    image_size: int | None = None
    data_dir: pathlib.Path = pathlib.Path("data")
    out: pathlib.Path = pathlib.Path("runs/image_meta")
    resume: bool = False


class Setting:
    """A model on a data set under a preset: what the methods have in common."""

    def __init__(self, config: Config, preset: Preset):
        self.preset, self.name = preset, config.model
        self.model = MODELS[config.model](WAYS, preset.channels)
        self.optimizer = optax.sgd(preset.inner_rate, momentum=MOMENTUM)
        # How FOMAML applies its gradients the paper does not say.
        reptile, fomaml = hd.reptile(preset.reptile_rate), hd.fomaml(optax.adam(1e-3))
        self.initialization = {"reptile": reptile, "fomaml": fomaml}[config.init]
        self.problem = hd.from_losses(self.model.inner_loss, self.model.outer_loss, self.optimizer)
        self.images = class_images(config.dataset, config.preset, preset, config.data_dir)
        self.sample = jax.jit(jax.vmap(self.task, (0, None)))
        self.accuracies = jax.jit(self._accuracies, static_argnums=4)

    def methods(self, gamma: float) -> dict[str, Method]:
        """All methods on this problem."""
        return methods(
            self.problem,
            descent(self.problem, self.model.inner_loss, self.preset.inner_rate),
            horizon=self.preset.horizon,
            gamma=gamma,
            neumann=self.preset.neumann,
            size=self.preset.size,
        )

    def when(self, method: Method) -> tuple[dict, int]:
        """When λ moves, as arguments of the learner, and how often in an inner optimisation."""
        if not isinstance(method.estimator, hd.Estimator):
            return {}, 1
        if "last" in method.arguments:
            return method.arguments, method.arguments["last"]
        return {
            "every": self.preset.every,
            **method.arguments,
        }, self.preset.horizon // self.preset.every

    def hyper_schedule(self, method: Method):
        """λ's learning rate by the number of its updates, down to 0 at the end of the run."""
        updates = self.when(method)[1] * self.preset.inner_optimisations
        return optax.linear_schedule(self.preset.hyper_rate, 0.0, updates)

    def learner(self, method: Method) -> hd.Learner:
        """Algorithm 3 with a method, under the preset."""
        return hd.learner(
            self.problem,
            method.estimator,
            hyper_optimizer=optax.sgd(self.hyper_schedule(method), momentum=MOMENTUM),
            initialization=self.initialization,
            horizon=self.preset.horizon,
            sample_inner=lambda key, task: self.batch(key, task.inner),
            sample_outer=lambda key, task: self.batch(key, task.outer),
            **{"fit_period": self.preset.fit_period, **self.when(method)[0]},
        )

    def task(self, key, images):
        """A task of the study, from a split's images."""
        return sample_task(key, images, ways=WAYS, corruption=self.preset.corruption)

    def batch(self, key, examples):
        """An augmented batch of a task's half."""
        return draw_batch(key, examples, self.preset.batch, self.preset.pad)

    def start(self, key) -> tuple:
        """(λ, w_0) of a seed."""
        size = self.preset.image_size
        hparams, params = jax.jit(self.model.init)(key, jnp.zeros((2, size, size, 3)))
        return hparams, hd.InnerState(params, self.optimizer.init(params))

    def _accuracies(self, hparams, weights, key, images, tasks: int):
        """Accuracy on each task's test half after adapting to its other half, [tasks]."""

        def one(key):
            task_key, batch_key = jax.random.split(key)
            task = self.task(task_key, images)
            adapted = hd.unroll(
                self.problem,
                hparams,
                weights,
                lambda t: self.batch(jax.random.fold_in(batch_key, t), task.inner),
                horizon=self.preset.horizon,
            )
            size = min(self.preset.batch, len(task.outer.labels))
            whole = len(task.outer.labels) // size * size
            batches = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), task.outer)
            return jax.lax.map(
                lambda batch: self.model.accuracy(
                    adapted.params, hparams, (normalize(batch.images), batch.labels)
                ),
                batches,
            ).mean()

        return jax.lax.map(one, jax.random.split(key, tasks), batch_size=self.preset.meta_batch)


class Study:
    """One method in one setting: compiled once, run for any number of seeds."""

    def __init__(self, setting: Setting, method: Method):
        self.setting, self.title = setting, method.title
        self.learner = setting.learner(method)

    def run(self, seed: int, folder: RunFolder) -> dict:
        """Meta-trains, meta-validates and meta-tests; a run that diverges says so."""
        setting, preset = self.setting, self.setting.preset
        init_key, state_key, train_key, validation_key, test_key = jax.random.split(
            jax.random.key(seed), 5
        )
        hparams, weights = setting.start(init_key)
        state = self.learner.init(state_key, hparams, weights)

        def tasks_at(m):
            keys = jax.random.split(jax.random.fold_in(train_key, m), preset.meta_batch)
            return setting.sample(keys, setting.images["train"])

        def accuracies(state, key, part, tasks):
            found = setting.accuracies(
                state.hparams, state.weights, key, setting.images[part], tasks
            )
            return np.asarray(found, float)

        def validate(m, state):
            if m % preset.validate_every and m != preset.inner_optimisations:
                return {}
            found = accuracies(state, validation_key, "validation", preset.validation_tasks)
            return {"accuracy": float(found.mean())}

        try:
            state = meta_train(
                self.learner,
                state,
                tasks_at,
                total=preset.inner_optimisations,
                horizon=preset.horizon,
                folder=folder,
                label=f"{self.title}, seed {seed}",
                validate=validate,
            )
        except NonFiniteLoss as error:
            return folder.finish(
                test_accuracy=None, validation_accuracy=None, diverged=str(error), **spent(folder)
            )
        found = accuracies(state, test_key, "test", preset.test_tasks)
        if setting.name == "metaweightnet":
            write_weighting(folder.path / "weighting.json", setting.model, hparams, state.hparams)
        return folder.finish(
            test_accuracy=float(found.mean()),
            test_accuracy_spread=float(found.std(ddof=1)),
            validation_accuracy=folder.metrics()[-1]["accuracy"],
            diverged=None,
            **spent(folder),
        )


def chosen(config: Config, preset: Preset):
    """The methods to run, HyperDistill once for each γ: (name, γ)."""
    names = [config.method] if config.method != "all" else [n for n in METHODS if n not in UNASKED]
    gammas = config.gamma or preset.gammas
    for name in names:
        for gamma in gammas if name == "hyperdistill" else gammas[:1]:
            yield name, gamma


def main(config: Config) -> None:
    """Runs what the command line asks for, then writes and prints the report."""
    preset = protocol(config.preset, config.model)
    if config.image_size is not None:
        preset = dataclasses.replace(preset, image_size=config.image_size)
    for gamma in config.gamma:
        check_gamma(gamma)
    setting = Setting(config, preset)
    out = config.out / f"{config.model}-{config.dataset}-{config.init}"
    for name, gamma in chosen(config, preset):
        method = setting.methods(gamma)[name]
        settings = {
            "study": "image_meta",
            "model": config.model,
            "dataset": config.dataset,
            "init": config.init,
            "method": name,
            "title": method.title,
            "preset": config.preset,
            "gamma": gamma if name == "hyperdistill" else None,
        }
        run_seeds(
            Study(setting, method).run,
            out / (f"{name}-gamma{gamma}" if name == "hyperdistill" else name),
            config.seed or preset.seeds,
            settings,
            preset,
            config.resume,
            result="test_accuracy",
        )
    print(report(out))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
