"""The growth of time and memory: with the horizon, with λ, with tasks, over devices.

    python -m experiments.bench.growth --out runs/growth

*horizon*: T from 25 to 1600, on the sinusoid's network, one task. *hparams*: λ from 1e3 to 1e7
entries, a decay for each weight of as many, T = 20. *tasks*: 1 to 32 side by side, the sinusoid's.
*devices*: the same 8 tasks over 1 to 8 host devices, which share the machine's cores: it shows that
the numbers are the same and counts the all-reduces in the compiled program, not a gain in time. The
process has eight host devices for the other parts too, of which they use one.
"""

import dataclasses
import functools
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd

import hdistill as hd
from experiments.draw.sets import svg
from experiments.draw.tables import markdown
from experiments.methods import METHODS, Method
from experiments.run.command import run_command
from experiments.run.timing import medians, warn_if_busy
from experiments.sinusoid.setting import make_setting
from hdistill.checks.values import check_choice, check_count
from hdistill.progress import progress
from hdistill.training import OwnedFolder

SIZES = {
    "horizon": (25, 50, 100, 200, 400, 800, 1600),
    "hparams": (10**3, 10**4, 10**5, 10**6, 10**7),
    "tasks": (1, 2, 4, 8, 16, 32),
    "devices": (1, 2, 4, 8),
}
NAMES = ("fo", "one-step", "hyperdistill", "robust", "drmad", "drmad-every", "rmd-every")


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      what: what grows.
      repeats: timed calls of each.
      out: folder for growth.csv and growth.svg; none for no files.
    """

    what: tuple[str, ...] = tuple(SIZES)
    repeats: int = 5
    out: pathlib.Path | None = None

    def check(self) -> None:
        """Raises ValueError for an unknown name or a number out of range."""
        for name in self.what:
            check_choice("what", name, SIZES)
        check_count("repeats", self.repeats)


def make_learner(method: Method, problem: hd.Problem, plain: hd.Problem, horizon: int):
    """The method's learner; an inner loss's points are the task's first, the outer's its second."""
    of_method = plain if method.arguments.get("surrogate") else problem
    own = {k: v for k, v in method.arguments.items() if k in ("gamma", "mixing", "memory", "trust")}
    # No fit: it has its own pass over T, once in a while.
    return hd.learner(
        of_method,
        method.build(of_method, horizon, **own),
        hyper_optimizer=optax.sgd(1e-4),
        horizon=horizon,
        fit_period=lambda m: False,
        sample_inner=lambda key, task: task[0],
        sample_outer=lambda key, task: task[1],
        every=1 if "every" in method.arguments else None,
    )


def sinusoid(method: Method, horizon: int, tasks: int):
    """(learner, state, tasks) on the sinusoid study's network and points."""
    setting = make_setting("paper")
    learner = make_learner(method, setting.problem, setting.momentum_free, horizon)
    key = jax.random.key(0)
    points = setting.tasks(key, 0)
    repeated = jax.tree.map(lambda x: jnp.resize(x, (tasks, *x.shape[1:])), points)
    return learner, learner.init(key, *setting.start(key)), repeated


def decays(method: Method, size: int):
    """(learner, state, tasks) with a decay for each of `size` weights, T = 20."""

    def outer_loss(w, lam, batch):
        return 0.5 * jnp.mean((w - batch) ** 2)

    def inner_loss(w, lam, batch):
        return outer_loss(w, lam, batch) + 0.5 * jnp.mean(jnp.exp(lam) * w**2)

    optimizer = optax.sgd(0.1 * size, momentum=0.9)
    problem = hd.from_losses(inner_loss, outer_loss, optimizer)
    plain = hd.from_losses(inner_loss, outer_loss, optimizer, surrogate=optax.sgd(0.1 * size))
    learner = make_learner(method, problem, plain, 20)
    w = jnp.zeros(size)
    state = learner.init(jax.random.key(0), w - 2.0, hd.InnerState(w, optimizer.init(w)))
    points = jnp.linspace(0.0, 1.0, size)
    return learner, state, (points[None], points[None] ** 2)


MAKE = {
    "horizon": lambda method, size: sinusoid(method, size, 1),
    "hparams": decays,
    "tasks": lambda method, size: sinusoid(method, 30, size),
    "devices": lambda method, size: sinusoid(method, 30, 8),
}


def measure(what: str, names, repeats: int) -> list[dict]:
    """A row for each method and size; the sizes of a method take turns."""
    rows = []
    for name in progress(names, what):
        calls, programs = [], []
        for size in SIZES[what]:
            learner, state, tasks = MAKE[what](METHODS[name], size)
            if what == "devices":
                step, tasks = over_devices(learner, size), _split(tasks, size)
            else:
                step = jax.jit(learner.pure_step)
            program: Any = step.lower(state, tasks).compile()
            programs.append(program)
            calls.append(functools.partial(program, state, tasks))
        ends = [_flat(call()[0].hparams) for call in calls] if what == "devices" else None
        for i, seconds in enumerate(medians(calls, repeats)):
            row = {"what": what, "method": name, "size": SIZES[what][i], "seconds": seconds}
            row["memory_mb"] = programs[i].memory_analysis().temp_size_in_bytes / 1e6
            if ends is not None:
                row["difference"] = float(np.abs(ends[i] - ends[0]).max())
                row["all_reduces"] = all_reduces(programs[i].as_text())
            rows.append(row)
    return rows


def over_devices(learner: hd.Learner, count: int):
    """Builds the function of `hd.pmap_step`, to be lowered here."""
    return jax.pmap(
        lambda state, tasks: learner.pure_step(state, tasks, "tasks"),
        axis_name="tasks",
        in_axes=(None, 0),
        out_axes=None,
        devices=jax.devices()[:count],
    )


def _split(tasks, count: int):
    return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), tasks)


def _flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def all_reduces(program: str) -> int:
    """The all-reduces in the body of a compiled program's loops, one for each move of λ.

    Where λ moves once, after the loops, those of the program's entry are not counted.
    """
    inside, count = False, 0
    for line in program.splitlines():
        if line.rstrip().endswith("{") and not line.startswith(" "):
            inside = not line.startswith("ENTRY")
        count += inside and re.search(r" all-reduce(-start)?\(", line) is not None
    return count


def exponent(sizes, values) -> float:
    """The slope of log value over log size, least squares, over the larger half of the sizes.

    At the smaller sizes a fixed cost hides the growth.
    """
    half = len(sizes) // 2
    x, y = np.log(np.asarray(sizes[half:], float)), np.log(np.asarray(values[half:], float))
    return float(np.polyfit(x, y, 1)[0])


def table(frame: pd.DataFrame) -> str:
    """Markdown: for each method, the first and the last size, and the exponents."""
    rows = []
    for (what, method), group in frame.groupby(["what", "method"], sort=False):
        first, last = group.iloc[0], group.iloc[-1]
        row = {
            "grows": what,
            "from, to": f"{first['size']:g}, {last['size']:g}",
            "method": METHODS[str(method)].label,
            "ms": f"{1000 * first['seconds']:.2f}, {1000 * last['seconds']:.2f}",
            "exponent": f"{exponent(list(group['size']), list(group['seconds'])):.2f}",
            "memory, MB": f"{first['memory_mb']:.2f}, {last['memory_mb']:.2f}",
            "exponent ": f"{exponent(list(group['size']), list(group['memory_mb'])):.2f}",
        }
        if what == "devices":
            row |= {"exponent": "", "exponent ": ""}
            row["difference"] = f"{group['difference'].max():.0e}"
            row["all-reduces in the loop"] = f"{last['all_reduces']:.0f}"
        rows.append(row)
    return markdown(rows)


def picture(frame: pd.DataFrame):
    """Milliseconds and memory over what grows, but for devices; FO is only in the table."""
    frame = frame[frame["method"] != "fo"]
    kinds = [what for what in frame["what"].unique() if what != "devices"]
    columns = max(len(kinds), 1)
    size = 4.5 * columns, 7
    figure, axes = plt.subplots(2, columns, figsize=size, squeeze=False, layout="constrained")
    for column, what in enumerate(kinds):
        for row, (field, scale, label) in enumerate(
            (("seconds", 1e3, "ms an inner optimisation"), ("memory_mb", 1, "memory, MB"))
        ):
            axis = axes[row][column]
            for name, group in frame[frame["what"] == what].groupby("method", sort=False):
                style = {
                    "color": METHODS[str(name)].colour,
                    "label": METHODS[str(name)].label,
                    "marker": ".",
                }
                axis.loglog(group["size"], scale * group[field], **style)
            axis.set(xlabel=what, ylabel=label)
            axis.minorticks_off()
    axes[0][0].legend(fontsize=8)
    return figure


def main(config: Config) -> None:
    """Measures, and prints the table."""
    if "devices" in config.what:
        jax.config.update("jax_num_cpu_devices", max(SIZES["devices"]))
    warn_if_busy()
    out = OwnedFolder(config.out, "bench growth") if config.out else None
    rows: list[dict] = []
    for what in config.what:
        rows += measure(what, NAMES, config.repeats)
        if out is not None:
            pd.DataFrame(rows).to_csv(out.claim("growth.csv"), index=False)
    frame = pd.DataFrame(rows)
    print(table(frame))
    if out is not None:
        out.claim("growth.svg").write_text(svg(picture(frame)))


if __name__ == "__main__":
    run_command(Config, main, __doc__)
