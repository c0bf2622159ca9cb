"""Large for real: a weight for each of a million examples, a WarpGrad of three million parameters.

    python -m experiments.bench.large --out runs/large

One inner optimisation of each method on generated data: seconds, the peak of this process's memory
so far, and what a checkpoint of the run takes to write, to read, and on disk.
"""

import dataclasses
import functools
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import hdistill as hd
from experiments.common.command import run_command
from experiments.common.methods import METHODS
from experiments.common.tables import markdown
from experiments.common.timing import medians, warn_if_busy
from hdistill.checks import check_choice, check_count
from hdistill.models.warpgrad import WarpGrad
from hdistill.training import OwnedFolder, RunFolder

EXAMPLES, FEATURES, BATCH = 10**6, 32, 1000
CHANNELS = 208  # of WarpGrad's nine convolutions


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      case: "examples" or "warpgrad".
      method: which methods.
      repeats: timed calls of each.
      out: folder for large.csv; none for no file.
    """

    case: tuple[str, ...] = ("examples", "warpgrad")
    method: tuple[str, ...] = ("one-step", "robust", "drmad-every", "rmd-every")
    repeats: int = 3
    out: pathlib.Path | None = None

    def check(self) -> None:
        """Raises ValueError for an unknown name or a number out of range."""
        for name in self.case:
            check_choice("case", name, CASES)
        for name in self.method:
            check_choice("method", name, METHODS)
        check_count("repeats", self.repeats)


def examples():
    """(problem, λ, w_0, tasks, samplers, T): a logit for each example's weight, a linear model."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (1, EXAMPLES, FEATURES))
    y = (x[..., 0] + x[..., 1] > 0).astype(jnp.float32)

    def outer_loss(w, lam, batch):
        _, x, y = batch
        return optax.sigmoid_binary_cross_entropy(x @ w, y).mean()

    def inner_loss(w, lam, batch):
        number, x, y = batch
        losses = optax.sigmoid_binary_cross_entropy(x @ w, y)
        return (jax.nn.sigmoid(lam[number]) * losses).mean()

    def sample(key, task):
        number = jax.random.randint(key, (BATCH,), 0, EXAMPLES)
        return number, task[0][number], task[1][number]

    optimizer = optax.sgd(0.5, momentum=0.9)
    problem = hd.from_losses(inner_loss, outer_loss, optimizer)
    w = jnp.zeros(FEATURES)
    weights = hd.InnerState(w, optimizer.init(w))
    lam = 0.01 * jax.random.normal(key, (EXAMPLES,))
    return problem, lam, weights, (x, y), sample, 50


def warpgrad():
    """The same of a wide WarpGrad, on images of 16x16 in batches of 16."""
    model = WarpGrad(10, CHANNELS)
    optimizer = optax.sgd(0.01, momentum=0.9)
    problem = hd.from_losses(model.inner_loss, model.outer_loss, optimizer)
    images = jax.random.normal(jax.random.key(0), (1, 16, 16, 16, 3))
    hparams, params = jax.jit(model.init)(jax.random.key(1), images[0, :2])
    weights = hd.InnerState(params, optimizer.init(params))
    tasks = images, jnp.arange(16)[None] % 10
    return problem, hparams, weights, tasks, lambda key, task: task, 5


CASES: dict[str, Callable] = {"examples": examples, "warpgrad": warpgrad}


def measure(case: str, name: str, repeats: int) -> dict:
    """A row: one method's inner optimisation, and a checkpoint of its state."""
    problem, hparams, weights, tasks, sample, horizon = CASES[case]()
    method = METHODS[name]
    own = {k: v for k, v in method.arguments.items() if k in ("gamma", "memory", "trust")}
    learner = hd.learner(
        problem,
        method.build(problem, horizon, **own),
        hyper_optimizer=optax.sgd(1.0, momentum=0.9),
        horizon=horizon,
        every=1 if "every" in method.arguments else None,
        fit_period=lambda m: False,
        sample_inner=sample,
        sample_outer=sample,
    )
    state = learner.init(jax.random.key(0), hparams, weights)
    program: Any = jax.jit(learner.pure_step).lower(state, tasks).compile()
    seconds = medians([functools.partial(program, state, tasks)], repeats)[0]
    state, _ = program(state, tasks)
    return {
        "case": case,
        "method": method.label,
        "hparams": _count(hparams),
        "weights": _count(weights),
        "seconds": seconds,
        "seconds_a_step": seconds / horizon,
        "program_mb": program.memory_analysis().temp_size_in_bytes / 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        **checkpoint(state),
    }


def checkpoint(state) -> dict:
    """Seconds to write and to read a checkpoint of the state, and its size."""
    with tempfile.TemporaryDirectory() as root, RunFolder(root, {}) as folder:
        start = time.perf_counter()
        folder.save(1, state)
        saved = time.perf_counter()
        folder.restore(state)
        read = time.perf_counter()
        files = [path for path in folder.path.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / 1e6
    return {"checkpoint_mb": size, "save_seconds": saved - start, "restore_seconds": read - saved}


def _count(tree) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(tree))


def main(config: Config) -> None:
    """Prints the table."""
    warn_if_busy()
    out = OwnedFolder(config.out, "bench large") if config.out else None
    rows = []
    for case in config.case:
        for name in config.method:
            rows.append(measure(case, name, config.repeats))
            if out is not None:
                pd.DataFrame(rows).to_csv(out.claim("large.csv"), index=False)
    shown = [
        {k: f"{v:.3g}" if isinstance(v, float) else str(v) for k, v in r.items()} for r in rows
    ]
    print(markdown(shown))


if __name__ == "__main__":
    run_command(Config, main, __doc__)
