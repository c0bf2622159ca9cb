"""What each method costs: seconds, products and memory of an inner optimisation (Table 3).

    python -m experiments.bench.cost --setting sinusoid warpgrad --preset cpu
    python -m experiments.bench.cost --setting warpgrad --preset paper --out runs/cost    on a GPU

One inner optimisation of the preset's meta-batch, on generated images. The methods take turns; the
medians count. A fit of θ is shared out over the inner optimisations of the preset's run.
"""

import dataclasses
import os
import pathlib
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pandas as pd

from experiments.common.command import run_command
from experiments.common.methods import METHODS, Method
from experiments.common.study import Setting
from experiments.common.tables import markdown
from experiments.image_meta.presets import PresetName
from experiments.image_meta.setting import MODELS
from experiments.image_meta.setting import make_setting as make_image_setting
from experiments.sinusoid.setting import make_setting as make_sinusoid_setting
from hdistill.checks import check_choice, check_count
from hdistill.training import OwnedFolder

# Table 3 of Lee et al. 2022, on an RTX 2080 Ti: seconds of HyperDistill to those of 1-step, of FO.
PAPER = {"warpgrad": (1.26, 1.66), "metaweightnet": (0.98, 3.16), "anil": (1.02, 1.11)}


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      setting: "sinusoid", "anil", "warpgrad" or "metaweightnet".
      preset: the protocol whose shapes are timed.
      method: which methods; none for all but online RMD.
      repeats: timed calls of each.
      jobs: programs to compile at once; "first result" is right with one.
      out: a folder for cost.csv; none for no file.
    """

    setting: tuple[str, ...] = ("sinusoid", "warpgrad")
    preset: PresetName = "cpu"
    method: tuple[str, ...] = ()
    repeats: int = 5
    jobs: int = 1
    out: pathlib.Path | None = None

    def check(self) -> None:
        """Raises ValueError for a name that is none of those, a number out of range."""
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
      rest: its arguments where no θ is fitted.
      due: where θ is fitted; None for a method without a fit.
      share: fits of θ for each inner optimisation of a run.
      compile_seconds: of tracing and compilation.
    """

    call: Any
    rest: tuple
    due: tuple | None
    share: float
    compile_seconds: float


def compile_method(setting: Setting, method: Method) -> Program:
    """The method's inner optimisation, as a program."""
    start = time.perf_counter()
    learner = setting.learner(method)
    key = jax.random.key(0)
    state, tasks = learner.init(key, *setting.start(key)), setting.tasks(key)
    call = jax.jit(learner.pure_step).lower(state, tasks).compile()
    seconds = time.perf_counter() - start
    share = fits(method, setting.inner_optimisations)
    later = state._replace(done=jnp.int32(2))  # no schedule fits before the third
    return Program(call, (later, tasks), (state, tasks) if share else None, share, seconds)


def fits(method: Method, inner_optimisations: int) -> float:
    """How often θ is fitted, for each inner optimisation of a run."""
    period = method.learner_arguments.get("fit_period")
    if period is None:
        return 0.0
    due = period if callable(period) else lambda m: (m - 1) % period == 0
    steps = range(1, inner_optimisations + 1)
    return sum(bool(due(m)) for m in steps) / len(steps)


def timed(call, arguments) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    return time.perf_counter() - start


def measure(setting: Setting, methods: list[Method], repeats: int, jobs: int) -> list[dict]:
    """A row for each method."""
    with ThreadPoolExecutor(jobs) as pool:
        programs = list(pool.map(lambda method: compile_method(setting, method), methods))
    seconds: list[list[tuple[float, float]]] = [[] for _ in programs]
    for repeat in range(repeats + 1):
        for each, program in zip(seconds, programs):
            rest = timed(program.call, program.rest)
            due = timed(program.call, program.due) if program.due else rest
            if repeat:  # the first is a warm-up
                each.append((rest, due))
    return [row(*args) for args in zip(methods, programs, seconds)]


def row(method: Method, program: Program, seconds: list[tuple[float, float]]) -> dict:
    """Medians, the fit shared out."""

    def shared(rest, due):
        return rest + program.share * (due - rest)

    products = [int(program.call(*a)[1].products) for a in (program.rest, program.due) if a]
    return {
        "method": method.label,
        "name": method.name,
        "seconds": shared(*(statistics.median(x) for x in zip(*seconds))),
        "products": shared(products[0], products[-1]),
        "memory_mb": program.call.memory_analysis().temp_size_in_bytes / 1e6,
        "compile_seconds": program.compile_seconds,
    }


def table(frame: pd.DataFrame) -> str:
    """Markdown: the rows of a setting, with the ratios to FO and to 1-step."""
    seconds = frame.set_index("name")["seconds"]
    rows = []
    for _, r in frame.iterrows():
        ratios = {
            f"/ {label}": f"{r['seconds'] / seconds[name]:.2f}" if name in seconds else ""
            for name, label in (("fo", "FO"), ("one-step", "1-step"))
        }
        rows.append(
            {"method": r["method"], "ms": f"{1000 * r['seconds']:.2f}"}
            | ratios
            | {
                "products": f"{r['products']:.1f}",
                "memory, MB": f"{r['memory_mb']:.1f}",
                "first result, s": f"{r['compile_seconds']:.1f}",
            }
        )
    return markdown(rows)


def main(config: Config) -> None:
    """Prints a table for each setting."""
    if os.getloadavg()[0] > 0.5:
        print(f"the machine is busy: load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    frames = []
    for name in config.setting:
        if name == "sinusoid":
            setting = make_sinusoid_setting(config.preset)
        else:
            setting = make_image_setting(name, preset_name=config.preset, data_dir=None)
        names = config.method or [n for n in METHODS if n not in ("rmd", "unlearnt")]
        methods = [METHODS[n].adapted(setting.arguments(n)) for n in names]
        frame = pd.DataFrame(measure(setting, methods, config.repeats, config.jobs))
        device, jax_version = jax.devices()[0].device_kind, jax.__version__
        print(f"{name}, preset {config.preset}, {device}, jax {jax_version}\n")
        print(table(frame))
        if name in PAPER:
            ratios = "{:.2f} times 1-step, {:.2f} times FO".format(*PAPER[name])
            print(f"The paper's HyperDistill: {ratios}.\n")
        frames.append(frame.assign(setting=name, preset=config.preset, device=device))
        if config.out is not None:
            folder = OwnedFolder(config.out, "bench cost")
            pd.concat(frames).to_csv(folder.claim("cost.csv"), index=False)


if __name__ == "__main__":
    run_command(Config, main, __doc__)
