"""What the fidelity study measures on: a study's problem, its learner and tasks to compare on."""

import pathlib
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

import hdistill as hd
from experiments import image_meta, sinusoid
from experiments.common.methods import Method, methods
from experiments.image_protocol import PresetName, protocol
from hdistill.data.sinusoid import sample_tasks

ProblemName = Literal["warpgrad", "anil", "sinusoid"]
PROBLEMS: tuple[str, ...] = get_args(ProblemName)
GAMMA = 0.9


class Scene(NamedTuple):
    """A problem with what it takes to meta-train on it and to compare methods on one task.

    Attributes:
      problem: Φ and L_val.
      methods: of the study, by name, HyperDistill at γ = 0.9.
      learner: Algorithm 3 with HyperDistill, under the study's preset.
      horizon: T.
      inner_optimisations: M.
      start: key -> (λ, w_0).
      tasks: key -> tasks of an inner optimisation of the learner.
      draw: key -> (batches [T, ...], outer batch) of one task.
    """

    problem: hd.Problem
    methods: dict[str, Method]
    learner: hd.Learner
    horizon: int
    inner_optimisations: int
    start: Callable
    tasks: Callable
    draw: Callable


def make_scene(name: ProblemName, preset: PresetName, data_dir: pathlib.Path) -> Scene:
    """The scene of a problem; the images are CIFAR-100's, or generated (preset smoke)."""
    return sinusoid_scene(preset) if name == "sinusoid" else image_scene(name, preset, data_dir)


def image_scene(model, preset_name: PresetName, data_dir: pathlib.Path) -> Scene:
    """The image study's: tasks of the meta-training classes, batches augmented."""
    preset = protocol(preset_name, model)
    config = image_meta.Config(model=model, preset=preset_name, data_dir=data_dir)
    setting = image_meta.Setting(config, preset)
    methods = setting.methods(GAMMA)

    def tasks(key):
        return setting.sample(jax.random.split(key, preset.meta_batch), setting.images["train"])

    @jax.jit
    def draw(key, images):
        task_key, inner_key, outer_key = jax.random.split(key, 3)
        task = setting.task(task_key, images)
        keys = jax.random.split(inner_key, preset.horizon)
        batches = jax.lax.map(lambda key: setting.batch(key, task.inner), keys)
        return batches, setting.batch(outer_key, task.outer)

    return Scene(
        setting.problem,
        methods,
        setting.learner(methods["hyperdistill"]),
        preset.horizon,
        preset.inner_optimisations,
        setting.start,
        tasks,
        lambda key: draw(key, setting.images["train"]),
    )


def sinusoid_scene(preset_name: PresetName) -> Scene:
    """The sinusoid study's: every inner step sees all points of the task."""
    preset = sinusoid.PRESETS[preset_name]
    found = methods(
        sinusoid.PROBLEM,
        sinusoid.DESCENT,
        horizon=preset.horizon,
        gamma=GAMMA,
        neumann=sinusoid.NEUMANN,
    )
    study = sinusoid.Study(found["hyperdistill"], preset)

    def draw(key):
        inner, outer = jax.tree.map(lambda x: x[0], sample_tasks(key, 1, preset.shots))
        return jax.tree.map(lambda x: jnp.stack([x] * preset.horizon), inner), outer

    return Scene(
        sinusoid.PROBLEM,
        found,
        study.learner,
        preset.horizon,
        preset.inner_optimisations,
        sinusoid.initial,
        lambda key: sample_tasks(key, preset.meta_batch, preset.shots),
        draw,
    )
