"""The cost of each method: seconds, products and memory of an inner optimisation (Table 3).

    python -m experiments.bench.cost --setting sinusoid warpgrad --preset cpu
    python -m experiments.bench.cost --setting warpgrad --preset paper --out runs/cost    on a GPU

One inner optimisation of the preset's meta-batch, on generated images. The methods take turns; the
medians count. A fit of θ is shared out over the inner optimisations of the preset's run.
"""

import dataclasses
import functools
import pathlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.bench.operations import operations
from experiments.draw.sets import svg
from experiments.draw.tables import markdown
from experiments.image_meta.presets import PresetName
from experiments.image_meta.setting import MODELS
from experiments.image_meta.setting import make_setting as make_image_setting
from experiments.methods import METHODS, Method
from experiments.run.command import run_command
from experiments.run.study import Setting
from experiments.run.timing import medians, warn_if_busy
from experiments.sinusoid.setting import make_setting as make_sinusoid_setting
from hdistill.checks.values import check_choice, check_count
from hdistill.training import OwnedFolder

# Table 3 of Lee et al. 2022, on an RTX 2080 Ti: seconds of HyperDistill to those of 1-step, of FO;
# WarpGrad and MetaWeightNet on CIFAR-100, ANIL on TinyImageNet, whose images are as large here.
PAPER = {"warpgrad": (1.26, 1.66), "metaweightnet": (0.98, 3.16), "anil": (1.02, 1.11)}


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      setting: "sinusoid", "anil", "warpgrad" or "metaweightnet".
      preset: the protocol whose shapes are timed.
      method: which methods; none for all.
      repeats: timed calls of each.
      jobs: programs to compile at once; "first result" is right with one.
      out: a folder for cost.csv and cost.svg; none for no file.
    """

    setting: tuple[str, ...] = ("sinusoid", "warpgrad")
    preset: PresetName = "cpu"
    method: tuple[str, ...] = ()
    repeats: int = 5
    jobs: int = 1
    out: pathlib.Path | None = None

    def check(self) -> None:
        """Raises ValueError for an unknown name or a number out of range."""
        for name in self.setting:
            check_choice("setting", name, ("sinusoid", *MODELS))
        for name in self.method:
            check_choice("method", name, METHODS)
        check_count("repeats", self.repeats)
        check_count("jobs", self.jobs)


class Program(NamedTuple):
    """One method's inner optimisation, compiled.

    Attributes:
      call: (state, tasks) -> (state, info).
      kinds: its arguments where θ is fitted and where it is not, whichever there are, each with the
        share of a run's inner optimisations that are such.
      operations: of its matrix products, as the run has them on average.
      first: seconds of tracing, compilation and the first call.
    """

    call: Any
    kinds: list[tuple[tuple, float]]
    operations: float
    first: float


def compile_method(setting: Setting, method: Method) -> Program:
    """The method's inner optimisation, as a program."""
    learner = setting.learner(method)
    key = jax.random.key(0)
    state, tasks = learner.init(key, *setting.start(key)), setting.tasks(key, 0)
    start = time.perf_counter()
    call = jax.jit(learner.pure_step).lower(state, tasks).compile()
    _, info = jax.block_until_ready(call(state, tasks))
    first = time.perf_counter() - start
    fitted = fits(method, setting.inner_optimisations)
    kinds = [
        ((state._replace(done=jnp.int32(fitted.index(kind))), tasks), float(np.mean(of)))
        for kind in (True, False)
        if any(of := [f == kind for f in fitted])
    ]
    count = operations(
        learner.pure_step, (state, tasks), float(np.mean(fitted)), float(info.moved.mean())
    )
    return Program(call, kinds, count, first)


def fits(method: Method, inner_optimisations: int) -> list[bool]:
    """Tells whether θ is fitted before each inner optimisation of a run."""
    period = method.learner_arguments.get("fit_period")
    due = period if callable(period) else lambda m: period is not None and (m - 1) % period == 0
    return [bool(due(m)) for m in range(1, inner_optimisations + 1)]


def measure(setting: Setting, methods: list[Method], repeats: int, jobs: int) -> list[dict]:
    """A row for each method."""
    with ThreadPoolExecutor(jobs) as pool:
        programs = list(pool.map(lambda method: compile_method(setting, method), methods))
    calls = [functools.partial(p.call, *arguments) for p in programs for arguments, _ in p.kinds]
    seconds = iter(medians(calls, repeats))
    rows = []
    for method, program in zip(methods, programs):
        shares = [share for _, share in program.kinds]
        products = [int(program.call(*arguments)[1].products) for arguments, _ in program.kinds]
        rows.append(
            {
                "method": method.label,
                "name": method.name,
                "seconds": float(np.dot(shares, [next(seconds) for _ in shares])),
                "products": float(np.dot(shares, products)),
                "gflop": program.operations / 1e9,
                "memory_mb": program.call.memory_analysis().temp_size_in_bytes / 1e6,
                "first_seconds": program.first,
            }
        )
    return rows


def table(frame: pd.DataFrame) -> str:
    """Markdown: the rows of a setting, with the ratios to FO and to 1-step."""
    seconds = frame.set_index("name")["seconds"]
    rows = []
    for _, r in frame.iterrows():
        ratios = {
            f"times {label}": f"{r['seconds'] / seconds[name]:.2f}" if name in seconds else ""
            for name, label in (("fo", "FO"), ("one-step", "1-step"))
        }
        rows.append(
            {"method": r["method"], "ms": f"{1000 * r['seconds']:.2f}"}
            | ratios
            | {
                "products": f"{r['products']:.1f}",
                "GFLOP": f"{r['gflop']:.3g}",
                "memory, MB": f"{r['memory_mb']:.1f}",
                "first result, s": f"{r['first_seconds']:.1f}",
            }
        )
    return markdown(rows)


def picture(frame: pd.DataFrame):
    """Bars: milliseconds of an inner optimisation, a panel for each setting."""
    settings = list(frame.groupby("setting", sort=False))
    size = 3.6 * len(settings), 0.6 + 0.32 * frame["name"].nunique()
    figure, axes = plt.subplots(1, len(settings), figsize=size, squeeze=False, layout="constrained")
    for axis, (setting, group) in zip(axes[0], settings):
        colours = [METHODS[name].colour for name in group["name"]]
        bars = axis.barh(group["method"], 1000 * group["seconds"], color=colours)
        axis.bar_label(bars, fmt="%.3g", padding=2)
        axis.set(title=setting, xlabel="ms an inner optimisation")
        axis.margins(x=0.2)
        axis.invert_yaxis()
        axis.tick_params("y", labelleft=axis is axes[0][0])
    return figure


def main(config: Config) -> None:
    """Prints a table for each setting."""
    warn_if_busy()
    out = OwnedFolder(config.out, "bench cost") if config.out else None
    frames = []
    for name in config.setting:
        if name == "sinusoid":
            setting = make_sinusoid_setting(config.preset)
        else:
            setting = make_image_setting(name, preset_name=config.preset, data_dir=None)
        names = config.method or [n for n in METHODS if n != "unlearnt"]
        methods = [METHODS[n].adapted(setting.arguments(n)) for n in names]
        frame = pd.DataFrame(measure(setting, methods, config.repeats, config.jobs))
        device, jax_version = jax.devices()[0].device_kind, jax.__version__
        print(f"{name}, preset {config.preset}, {device}, jax {jax_version}\n")
        print(table(frame))
        if name in PAPER:
            ratios = "{:.2f} times 1-step, {:.2f} times FO".format(*PAPER[name])
            print(f"The paper's HyperDistill: {ratios}.\n")
        frames.append(frame.assign(setting=name, preset=config.preset, device=device))
        if out is not None:
            pd.concat(frames).to_csv(out.claim("cost.csv"), index=False)
            out.claim("cost.svg").write_text(svg(picture(pd.concat(frames))))


if __name__ == "__main__":
    run_command(Config, main, __doc__)
