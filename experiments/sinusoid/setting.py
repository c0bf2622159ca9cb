"""The sinusoid study: ANIL's network, whose features are λ and whose last layer is w."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

import hdistill as hd
from experiments.methods import Method
from experiments.run.study import Setting, shared
from experiments.sinusoid.presets import PRESETS
from hdistill.checks.values import check_count
from hdistill.data.sinusoid import sample_tasks
from hdistill.models.anil_regression import AnilRegression

MODEL = AnilRegression()


def loss(params, hparams, points):
    """Mean squared error: the inner and the outer loss."""
    return jnp.mean((MODEL.apply(params, hparams, points.x) - points.y) ** 2)


def make_setting(preset_name: str, outer_points: int | None = None) -> Setting:
    """The study under a preset.

    Args:
      outer_points: of the outer loss and of the test; None for the preset's.
    """
    preset = PRESETS[preset_name]
    if outer_points is not None:
        preset = dataclasses.replace(preset, outer_points=check_count("outer_points", outer_points))
    points = preset.shots, preset.outer_points
    optimizer = optax.sgd(preset.inner_rate, momentum=preset.momentum)
    problem = hd.from_losses(loss, loss, optimizer)
    plain = optax.sgd(preset.inner_rate)
    initialize = jax.jit(MODEL.init)
    sample = jax.jit(sample_tasks, static_argnums=(1, 2, 3))

    def start(key):
        hparams, params = initialize(key, jnp.zeros((1, 1)))
        return hparams, hd.InnerState(params, optimizer.init(params))

    def learner(method: Method) -> hd.Learner:
        return hd.learner(
            method.problem(setting),
            method.estimator(setting),
            hyper_optimizer=optax.adam(method.arguments["hyper_rate"]),
            initialization=hd.reptile(preset.reptile_rate),
            horizon=preset.horizon,
            **method.learner_arguments,
        )

    def evaluate(hparams, weights, key, part):
        count = {"validation": preset.validation_tasks, "test": preset.test_tasks}[part]
        tasks = sample(key, count, *points)
        return hd.evaluate(problem, hparams, weights, tasks, horizon=preset.horizon)

    def draw(key):
        inner, outer = jax.tree.map(lambda x: x[0], sample_tasks(key, 1, *points))
        return jax.tree.map(lambda x: jnp.stack([x] * preset.horizon), inner), outer

    setting = Setting(
        {"study": "sinusoid", "preset": preset_name} | shared(preset),
        problem,
        hd.from_losses(loss, loss, optimizer, surrogate=plain),
        preset.horizon,
        preset.inner_optimisations,
        "mse",
        start,
        lambda key, m: sample(jax.random.fold_in(key, m), preset.meta_batch, *points),
        draw,
        preset.arguments,
        learner,
        evaluate,
    )
    return setting
