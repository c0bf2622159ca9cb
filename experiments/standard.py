"""Standard learning with MetaWeightNet on CIFAR-10: Appendix H of Lee et al. 2022, Table 5.

    python -m experiments.standard --preset smoke                     generated images, no data
    python -m experiments.standard --data-dir data                    preset cpu, all methods
    python -m experiments.standard --method hyperdistill --seed 0 --resume

First λ, the weighting of examples, is learnt online along one run of the classifier: on half of the
training images, some with wrong labels, while the other half, clean, gives the outer loss. Then the
classifier is trained anew on all of them, 40% wrong labels everywhere, with that λ at rest.

Each run has a folder OUT/METHOD/seed-S with the first stage's metrics and checkpoints, the second's
in retrain/, and weighting.json; OUT gets the table and the plots.
"""

import dataclasses
import pathlib
import warnings
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax
import tyro

import hdistill as hd
from experiments.common.folder import RunFolder
from experiments.common.loop import NonFiniteLoss, meta_train
from experiments.common.methods import descent
from experiments.common.runs import run_seeds, spent
from experiments.image_protocol import WAYS
from experiments.image_report import write_weighting
from experiments.standard_protocol import PRESETS, Preset, corrupt, halves, load
from experiments.standard_report import report
from hdistill.data.augment import draw_batch, normalize
from hdistill.models.classifiers import MetaWeightNet

MethodName = Literal["unlearnt", "one-step", "nift", "hyperdistill"]
GAMMA, SIZE = 0.9, 1.0  # of HyperDistill (Appendices H and I)
NEUMANN = (5, 5)  # N.IFT's number of terms, and the steps from one move of λ to the next


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      method: one method, or all of them; `unlearnt` leaves λ where it starts.
      preset: the protocol.
      seed: seeds to run; none for the preset's.
      data_dir: folder of the images' pools.
      out: the folder for results.
      resume: go on with the runs in `out` where they stopped.
    """

    method: Literal["all"] | MethodName = "all"
    preset: Literal["smoke", "cpu", "paper"] = "cpu"
    seed: tuple[int, ...] = ()
    data_dir: pathlib.Path = pathlib.Path("data")
    out: pathlib.Path = pathlib.Path("runs/standard")
    resume: bool = False


class Setting:
    """MetaWeightNet on CIFAR-10 under a preset: what the methods have in common."""

    def __init__(self, config: Config, preset: Preset):
        self.preset = preset
        self.train, self.test = load(config.preset, preset, config.data_dir)
        self.model = MetaWeightNet(WAYS, preset.channels)
        self.optimizer = optax.sgd(preset.learning_rate, momentum=0.9)
        self.problem = hd.from_losses(self.model.inner_loss, self.model.outer_loss, self.optimizer)
        self.accuracy = jax.jit(self._accuracy)

    def stream(self, method: MethodName) -> hd.Stream:
        """The first stage with a method; `unlearnt`, the second stage, leaves λ at rest."""
        online, every = hd.online, 1
        optimizer = optax.sgd(self.preset.learning_rate, momentum=0.9)
        if method == "unlearnt":
            estimator, optimizer = online.first_order(self.problem), optax.set_to_zero()
        elif method == "one-step":
            estimator = online.one_step(self.problem)
        elif method == "nift":
            terms, every = NEUMANN
            plain = descent(self.problem, self.model.inner_loss, self.preset.learning_rate)
            estimator = online.implicit(plain, solver="neumann", terms=terms)
        else:
            estimator = online.hyperdistill(self.problem, gamma=GAMMA, size=SIZE)

        def batch(key, examples):
            return draw_batch(key, examples, self.preset.batch, self.preset.pad)

        return hd.stream(
            self.problem,
            estimator,
            hyper_optimizer=optimizer,
            steps=self.preset.stretch,
            every=every,
            sample_inner=lambda key, task: batch(key, task[0]),
            sample_outer=lambda key, task: batch(key, task[1]),
        )

    def start(self, key):
        """(λ, w_0)."""
        size = self.preset.image_size
        hparams, params = jax.jit(self.model.init)(key, jnp.zeros((2, size, size, 3)))
        return hparams, hd.InnerState(params, self.optimizer.init(params))

    def _accuracy(self, weights, hparams):
        """On the test images, in batches of 100, whose statistics normalise them."""
        size = min(100, self.test.labels.shape[0])
        order = jax.random.permutation(jax.random.key(0), self.test.labels.shape[0])
        whole = order[: order.size // size * size].reshape(-1, size)

        def one(index):
            batch = normalize(self.test.images[index]), self.test.labels[index]
            return self.model.accuracy(weights.params, hparams, batch)

        return jax.lax.map(one, whole).mean()


class Study:
    """One method in the setting: compiled once, run for any number of seeds."""

    def __init__(self, setting: Setting, method: MethodName, title: str):
        self.setting, self.title = setting, title
        self.stages = setting.stream(method), setting.stream("unlearnt")

    def run(self, seed: int, folder: RunFolder) -> dict:
        """Learns λ, retrains with it at rest, tests; a run that diverges says so."""
        setting = self.setting
        init_key, corrupt_key, half_key, *stage_keys = jax.random.split(jax.random.key(seed), 5)
        corrupted = corrupt(corrupt_key, setting.train, setting.preset.corruption)
        first, weights = setting.start(init_key)
        tasks = halves(half_key, corrupted, setting.train), (corrupted, setting.train)
        retrain = RunFolder(folder.path / "retrain", folder.config or {}, resume=True)
        try:
            learnt = self._stage(0, folder, "λ", stage_keys[0], first, weights, tasks[0])
            state = self._stage(
                1, retrain, "retraining", stage_keys[1], learnt.hparams, weights, tasks[1]
            )
        except NonFiniteLoss as error:
            return folder.finish(test_accuracy=None, diverged=str(error), **spent(folder))
        finally:
            retrain.close()
        write_weighting(folder.path / "weighting.json", setting.model, first, state.hparams)
        return folder.finish(
            test_accuracy=float(setting.accuracy(state.weights, state.hparams)),
            first_stage_accuracy=float(setting.accuracy(learnt.weights, learnt.hparams)),
            diverged=None,
            **spent(folder),
        )

    def _stage(self, number, folder, name, key, hparams, weights, task):
        preset, stream = self.setting.preset, self.stages[number]
        total = preset.steps // preset.stretch

        def validate(m, state):
            if m % preset.validate_every and m != total:
                return {}
            return {"accuracy": float(self.setting.accuracy(state.weights, state.hparams))}

        return meta_train(
            stream,
            stream.init(key, hparams, weights, task),
            lambda m: task,
            total=total,
            horizon=preset.stretch,
            folder=folder,
            label=f"{self.title}, {name}",
            validate=validate,
            unit="stretch",
        )


def title(method: str) -> str:
    """A method as the tables name it."""
    terms, every = NEUMANN
    return {
        "unlearnt": "λ not learnt",
        "one-step": "1-step",
        "nift": f"N.IFT ({terms} terms, every {every} steps)",
        "hyperdistill": f"HyperDistill (γ={GAMMA}, size {SIZE:g})",
    }[method]


def main(config: Config) -> None:
    """Runs what the command line asks for, then writes and prints the report."""
    # λ at rest, in the second stage, is meant.
    warnings.simplefilter("ignore", hd.ZeroHypergradientWarning)
    preset = PRESETS[config.preset]
    setting = Setting(config, preset)
    for method in get_args(MethodName) if config.method == "all" else [config.method]:
        settings = {
            "study": "standard",
            "method": method,
            "title": title(method),
            "preset": config.preset,
            "gamma": GAMMA,
        }
        run_seeds(
            Study(setting, method, title(method)).run,
            config.out / method,
            config.seed or preset.seeds,
            settings,
            preset,
            config.resume,
            result="test_accuracy",
        )
    print(report(config.out))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
