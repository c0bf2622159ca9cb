"""The speed of the image models: an inner step's share of a large matrix product's rate.

    python -m experiments.bench.images [--model warpgrad] [--shape cpu paper] [--tasks 1 2 4 8]
    python -m experiments.bench.images --devices 2 --tasks 2 4 8 --form library nine-slices lax.conv

An inner step, an outer gradient and a product inside a `lax.scan`, tasks side by side by vmap, or
spread over host devices, for each form of the 3x3 convolution. Operations are those of the
convolutions and products of the library's form, counted in the program before it is compiled, so
that a form that needs fewer is not punished.
"""

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import hdistill as hd
from experiments.bench.operations import operations
from experiments.bench.parts import seconds_by_part
from experiments.bench.peers.sides.jax_model import lax_conv
from experiments.draw.tables import markdown
from experiments.image_meta.presets import PresetName, protocol
from experiments.image_meta.setting import MODELS
from experiments.run.command import run_command
from experiments.run.cpu import keep_short_loops
from experiments.run.timing import medians, warn_if_busy
from hdistill.checks.values import check_choice, check_count
from hdistill.models import layers
from hdistill.models.conv import conv3x3, convolution_by_slices


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      model: which models.
      shape: whose batch, image size and channels: "cpu" or "paper".
      tasks: how many side by side.
      devices: over how many host devices they are spread.
      form: which convolutions.
      kind: "step", "gradient" (of the outer loss) or "product" (of a cotangent with A and B).
      steps: length of the scan.
      repeats: timed calls of each, in turn; the median counts.
      jobs: programs to compile at once.
      parts: also where each program's time goes, by jax.profiler.
    """

    model: tuple[str, ...] = ("warpgrad",)
    shape: tuple[PresetName, ...] = ("cpu",)
    tasks: tuple[int, ...] = (1, 2, 4, 8)
    devices: int = 1
    form: tuple[str, ...] = ("library",)
    kind: tuple[str, ...] = ("step", "gradient", "product")
    steps: int = 10
    repeats: int = 5
    jobs: int = 1
    parts: bool = False

    def check(self) -> None:
        """Raises ValueError for an unknown name or a number out of range."""
        chosen = {"model": MODELS, "form": FORMS, "kind": KINDS}
        for option, choices in chosen.items():
            for name in getattr(self, option):
                check_choice(option, name, choices)
        for count in self.tasks:
            check_count("tasks", count)
            if count % check_count("devices", self.devices):
                raise ValueError(f"tasks={count}: expected a multiple of devices={self.devices}")
        check_count("steps", self.steps)
        check_count("repeats", self.repeats)
        check_count("jobs", self.jobs)


def nine_slices(x, kernel):
    """One matrix product over nine shifted copies, its gradients by JAX's own rules."""
    return convolution_by_slices(x[None], kernel[None])[0]


FORMS = {"library": conv3x3, "nine-slices": nine_slices, "lax.conv": lax_conv}


def step(problem, weights, hparams, batch):
    """Φ."""
    return problem.update(weights, hparams, batch)


def gradient(problem, weights, hparams, batch):
    """∂L_val/∂(w, λ), folded into the weights so that the scan keeps it."""
    by_weights, by_hparams = jax.grad(problem.outer_loss, (0, 1), allow_int=True)(
        weights, hparams, batch
    )
    return weights._replace(params=_moved(weights.params, by_weights.params, by_hparams))


def product(problem, weights, hparams, batch):
    """αA and αB, folded likewise; α is the weights themselves."""

    def update(params, hparams):
        return problem.update(weights._replace(params=params), hparams, batch).params

    by_weights, by_hparams = jax.vjp(update, weights.params, hparams)[1](weights.params)
    return weights._replace(params=_moved(weights.params, by_weights, by_hparams))


def _moved(params, by_weights, by_hparams):
    small = 1e-9 * sum(leaf.sum() for leaf in jax.tree.leaves(by_hparams))
    return jax.tree.map(lambda p, g: p + 1e-9 * g + small, params, by_weights)


KINDS = {"step": step, "gradient": gradient, "product": product}


def make_call(
    model_name: str, shape: PresetName, tasks: int, kind: str, steps: int, devices: int = 1
):
    """(function, arguments): so many steps in a scan, for each task."""
    preset = protocol(shape, model_name)
    model = MODELS[model_name](channels=preset.channels)
    optimizer = optax.sgd(0.01, momentum=0.9)
    problem = hd.from_losses(model.inner_loss, model.outer_loss, optimizer)
    rng = np.random.default_rng(0)
    size = (tasks, preset.batch, preset.image_size, preset.image_size, 3)
    images = jnp.asarray(rng.normal(size=size), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, size[:2]))
    hparams, params = jax.jit(model.init)(jax.random.key(1), images[0, :2])
    weights = hd.InnerState(params, optimizer.init(params))
    weights = jax.tree.map(lambda x: jnp.stack([x] * tasks), weights)

    def one(weights, hparams, batch):
        def body(weights, _):
            return KINDS[kind](problem, weights, hparams, batch), None

        return jax.lax.scan(body, weights, length=steps)[0]

    several = jax.vmap(one, (0, None, 0))
    if devices > 1:
        several = jax.pmap(several, in_axes=(0, None, 0))
        weights, images, labels = jax.tree.map(
            lambda x: x.reshape(devices, -1, *x.shape[1:]), (weights, images, labels)
        )
    return several, (weights, hparams, (images, labels))


def matrix_product(size: int):
    """(function, arguments) of a large matrix product."""
    square = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)), jnp.float32)
    return jnp.matmul, (square, square)


def measure(config: Config) -> list[dict]:
    """A row for each model, shape, number of tasks, kind and form."""
    cases = [
        (model, shape, tasks, kind, form)
        for model in config.model
        for shape in config.shape
        for tasks in config.tasks
        for kind in config.kind
        for form in config.form
    ]
    lowered, counts = [], []
    for model, shape, tasks, kind, form in cases:
        counts.append(operations(*make_call(model, shape, tasks, kind, config.steps)))
        layers.conv3x3 = FORMS[form]
        try:
            function, arguments = make_call(model, shape, tasks, kind, config.steps, config.devices)
            lowered.append((jax.jit(function).lower(*arguments), arguments))
        finally:
            layers.conv3x3 = FORMS["library"]
    large = 2048 if jax.default_backend() == "cpu" else 8192
    function, arguments = matrix_product(large)
    lowered.append((jax.jit(function).lower(*arguments), arguments))
    counts.append(2.0 * large**3)
    with ThreadPoolExecutor(config.jobs) as pool:
        programs = list(pool.map(lambda pair: pair[0].compile(), lowered))
    # Or each call would place them again: a tenth of its time with a task on each core.
    placed = [
        jax.device_put(arguments, program.input_shardings[0])
        for program, (_, arguments) in zip(programs, lowered)
    ]
    calls = [functools.partial(p, *arguments) for p, arguments in zip(programs, placed)]
    seconds = medians(calls, config.repeats)
    rates = [count / each for count, each in zip(counts, seconds)]
    rows = [
        dict(zip(("model", "shape", "tasks", "kind", "form"), case))
        | {
            "ms a step": 1000 * each / config.steps,
            "GFLOP/s": rate / 1e9,
            "share": rate / rates[-1],
        }
        for case, each, rate in zip(cases, seconds, rates)
    ]
    if config.parts:
        for row, program, arguments in zip(rows, programs, placed):
            shares = seconds_by_part(program, arguments)
            row |= {part: 1000 * each / config.steps for part, each in shares.items()}
    print(f"matrix product {large}x{large}: {rates[-1] / 1e9:.0f} GFLOP/s")
    return rows


def main(config: Config) -> None:
    """Prints the table."""
    keep_short_loops()
    jax.config.update("jax_num_cpu_devices", config.devices)
    warn_if_busy()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {config}")
    formats = {"ms a step": "{:.3f}", "GFLOP/s": "{:.1f}", "share": "{:.3f}"}
    rows = pd.DataFrame(measure(config)).fillna(0.0)
    for name in rows.select_dtypes("float"):
        rows[name] = rows[name].map(formats.get(name, "{:.2f}").format)
    print(markdown(rows.astype(str).to_dict("records")))


if __name__ == "__main__":
    run_command(Config, main, __doc__)
