"""What a WarpGrad inner step costs, by the form of its convolutions and where it is compiled.

    python -m experiments.bench.conv [--batch 100] [--channels 32] [--size 32]

Times one step of SGD with momentum, forwards and backwards, of the paper's WarpGrad: alone (one
compiled step a call) and inside a `lax.scan`, as the inner loop runs it; on one task, on four at
once (`vmap`, whose per-task kernels make a grouped convolution of lax.conv) and on four one by one
(`lax.map`). A GPU may judge otherwise: run this there.
"""

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import hdistill as hd
from experiments.common.command import run_command
from hdistill.checks import check_count
from hdistill.models import layers
from hdistill.models.warpgrad import WarpGrad


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      batch: images a step.
      channels: of every convolution.
      size: height and width of the images.
      steps: length of the scan.
      repeats: timed calls of each, in turn; the median counts.
    """

    batch: int = 100
    channels: int = 32
    size: int = 32
    steps: int = 5
    repeats: int = 5

    def check(self) -> None:
        """Raises ValueError for a number out of range."""
        check_count("batch", self.batch)
        check_count("channels", self.channels)
        check_count("size", self.size)
        check_count("steps", self.steps)
        check_count("repeats", self.repeats)


def lax_conv(x, kernel):
    """The convolution of XLA, for comparison."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


FORMS = {"matrix": layers.conv3x3, "lax.conv": lax_conv}


def steps(config: Config, tasks: str, length: int):
    """(function, arguments): `length` inner steps of one task or four."""
    model = WarpGrad(channels=config.channels)
    optimizer = optax.sgd(0.01, momentum=0.9)
    problem = hd.from_losses(model.inner_loss, model.outer_loss, optimizer)
    image_key, label_key = jax.random.split(jax.random.key(0))
    count = 1 if tasks == "one" else 4
    images = jax.random.normal(image_key, (count, config.batch, config.size, config.size, 3))
    labels = jax.random.randint(label_key, (count, config.batch), 0, 10)
    hparams, params = jax.jit(model.init)(jax.random.key(1), images[0])
    weights = hd.InnerState(params, optimizer.init(params))

    def one(weights, batch):
        if length == 1:
            return problem.update(weights, hparams, batch)
        return hd.unroll(problem, hparams, weights, lambda t: batch, horizon=length)

    if tasks == "map":
        return lambda w, b: jax.lax.map(lambda a: one(*a), (w, b)), _stack(
            weights, count, images, labels
        )
    return jax.vmap(one), _stack(weights, count, images, labels)


def _stack(weights, count, images, labels):
    return jax.tree.map(lambda x: jnp.stack([x] * count), weights), (images, labels)


def measure(config: Config) -> dict[tuple[str, str, str], float]:
    """Seconds for each task and step, by (form, where, tasks); the repeats take turns."""
    compiled = {}
    for form, conv in FORMS.items():
        layers.conv3x3 = conv
        for tasks in ("one", "vmap", "map"):
            for where, length in (("alone", 1), ("scan", config.steps)):
                function, arguments = steps(config, tasks, length)
                call = jax.jit(function).lower(*arguments).compile()
                jax.block_until_ready(call(*arguments))
                each = length * (1 if tasks == "one" else 4)
                compiled[form, where, tasks] = (call, arguments, each)
    layers.conv3x3 = FORMS["matrix"]
    seconds: dict[tuple[str, str, str], list[float]] = {key: [] for key in compiled}
    for _ in range(config.repeats):
        for key, (call, arguments, each) in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(call(*arguments))
            seconds[key].append((time.perf_counter() - start) / each)
    return {key: statistics.median(values) for key, values in seconds.items()}


def main(config: Config) -> None:
    """Prints milliseconds, and the ratio to lax.conv's step compiled alone."""
    seconds = measure(config)
    bound = seconds["lax.conv", "alone", "one"]
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {config}")
    print(f"{'form':10}{'where':8}{'tasks':8}{'ms each':>10}{'ratio':>8}")
    for (form, where, tasks), value in seconds.items():
        print(f"{form:10}{where:8}{tasks:8}{1000 * value:10.2f}{value / bound:8.2f}")


if __name__ == "__main__":
    run_command(Config, main, __doc__)
