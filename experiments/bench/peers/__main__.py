"""hdistill beside its peers: the same problem, machine and run, each in its own environment.

    python -m experiments.bench.peers --out runs/peers

Each side solves the same problem in a process; they answer in turn, and medians count. Where the
method is the same, the answers are first held against ours. *first*: from the end of a side's
imports to its first result, compilation included. Environments are made on the first run (1.5 GB).
"""

import contextlib
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

from experiments.bench.peers.environments import PACKAGES, python_of
from experiments.bench.peers.problems import SETTINGS, make_problem
from experiments.draw.sets import svg
from experiments.draw.tables import markdown
from experiments.run.command import run_command
from experiments.run.timing import warn_if_busy
from hdistill.checks.values import check_choice, check_count
from hdistill.progress import progress
from hdistill.training import OwnedFolder

SIDES = pathlib.Path(__file__).parent / "sides"
RMD = ("hdistill", "jax_grad", "torch", "higher", "torchopt")
CASES = {
    ("sinusoid", "rmd"): RMD,
    ("sinusoid", "one-step"): ("hdistill", "torch"),
    ("sinusoid", "hyperdistill"): ("hdistill", "gradhpo"),
    ("conv", "rmd"): RMD,
    ("conv", "one-step"): ("hdistill", "torch"),
    ("logistic", "rmd"): RMD,
    ("logistic", "implicit"): ("hdistill", "jaxopt"),
}
TOLERANCE = 1e-4  # ‖difference‖ / ‖ours‖, in float32


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      problem: which problems.
      peer: which peers; none for all.
      repeats: timed calls of each side.
      envs: where the peers' environments are, or will be.
      out: folder for the problems, the answers, peers.csv and peers.svg.
    """

    problem: tuple[str, ...] = tuple(SETTINGS)
    peer: tuple[str, ...] = ()
    repeats: int = 7
    envs: pathlib.Path = pathlib.Path("runs/peers/environments")
    out: pathlib.Path = pathlib.Path("runs/peers/measured")

    def check(self) -> None:
        """Raises ValueError for an unknown name or a number out of range."""
        for name in self.problem:
            check_choice("problem", name, SETTINGS)
        for name in self.peer:
            check_choice("peer", name, ("jax_grad", *PACKAGES))
        check_count("repeats", self.repeats)


class Side(NamedTuple):
    """A process that answers.

    Attributes:
      name: whose it is.
      process: reads a line, answers, writes the seconds.
      first: seconds until its first answer.
      answer: that answer, λ's leaves in a vector.
    """

    name: str
    process: Any
    first: float
    answer: np.ndarray

    def seconds(self) -> float:
        """Of one more call."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise ValueError(f"{self.name} ended before it had answered as often as asked")
        return float(line)


def start(name: str, python: str, problem: str, method: str, out: pathlib.Path) -> Side | None:
    """Starts a side and waits for its first answer; None, with a line, where it fails."""
    script = SIDES / f"{name}_side.py"
    complaints = out / f"{script.stem}-{problem}-{method}.err"
    with complaints.open("w") as errors:
        process: Any = subprocess.Popen(
            [python, str(script), str(out), problem, method],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    line = process.stdout.readline()
    if not line:
        process.communicate()
        reason = complaints.read_text().strip().splitlines() or ["no message"]
        print(f"{name} left out of {problem}, {method}: {reason[-1]}", file=sys.stderr)
        return None
    answer = np.load(out / f"{script.stem}-{problem}-{method}.npy")
    return Side(name, process, float(line), answer)


def measure(problem: str, method: str, pythons: dict, repeats: int, out: pathlib.Path):
    """A row for each side of a case, ours first."""
    sides = []
    with contextlib.ExitStack() as stack:
        for name in CASES[problem, method]:
            side = pythons.get(name) and start(name, pythons[name], problem, method, out)
            if side:
                stack.enter_context(side.process)  # ends with its stdin
                sides.append(side)
        if not sides or sides[0].name != "hdistill":
            raise ValueError(f"{problem}, {method}: our own side failed, see above")
        seconds: dict[str, list[float]] = {side.name: [] for side in sides}
        for _ in progress(range(repeats), f"{problem}, {method}"):
            for side in sides:
                seconds[side.name].append(side.seconds())
    ours, apart = sides[0].answer, method == "hyperdistill"  # two readings of one algorithm
    for side in sides:
        error = np.linalg.norm(side.answer - ours) / np.linalg.norm(ours)
        yield {
            "problem": problem,
            "method": method,
            "side": side.name,
            "seconds": statistics.median(seconds[side.name]),
            "first_seconds": side.first,
            "difference": None if apart else error,
        }


def table(frame: pd.DataFrame) -> str:
    """Markdown: a row for each side of each case."""
    rows = []
    for (problem, method), group in frame.groupby(["problem", "method"], sort=False):
        ours = group[group["side"] == "hdistill"].iloc[0]
        for _, r in group.iterrows():
            rows.append(
                {
                    "problem": problem,
                    "method": method,
                    "by": r["side"],
                    "ms": f"{1000 * r['seconds']:.2f}",
                    "times ours": f"{r['seconds'] / ours['seconds']:.2f}",
                    "first result, s": f"{r['first_seconds']:.2f}",
                    "times ours ": f"{r['first_seconds'] / ours['first_seconds']:.2f}",
                    "difference": _shown(r["difference"]),
                }
            )
    return markdown(rows)


def _shown(difference) -> str:
    return "–" if pd.isna(difference) else f"{difference:.0e}"


def picture(frame: pd.DataFrame):
    """Bars: milliseconds of a call, by case and side."""
    cases = list(frame.groupby(["problem", "method"], sort=False))
    figure, axes = plt.subplots(1, len(cases), figsize=(3 * len(cases), 3), layout="constrained")
    for axis, ((problem, method), group) in zip(np.atleast_1d(axes), cases):
        colours = ["C0" if side == "hdistill" else "0.7" for side in group["side"]]
        bars = axis.barh(group["side"], 1000 * group["seconds"], color=colours)
        axis.bar_label(bars, fmt="%.3g", padding=2)
        axis.set(title=f"{problem}, {method}", xlabel="ms", xscale="log", xticks=[])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.margins(x=0.25)
        axis.invert_yaxis()
    return figure


def main(config: Config) -> None:
    """Measures, prints the table, and says where an answer differs."""
    warn_if_busy()
    out = OwnedFolder(config.out, "bench peers")
    names = ("hdistill", *(config.peer or ("jax_grad", *PACKAGES)))
    pythons = {name: python_of(name, config.envs) for name in names}
    for problem in config.problem:
        arrays: dict[str, Any] = make_problem(problem)
        np.savez(out.claim(f"{problem}.npz"), **arrays)
        out.claim(f"{problem}.json").write_text(json.dumps(SETTINGS[problem]))
    rows: list[dict] = []
    for problem, method in CASES:
        if problem in config.problem:
            rows += measure(problem, method, pythons, config.repeats, out.path)
            pd.DataFrame(rows).to_csv(out.claim("peers.csv"), index=False)
    frame = pd.DataFrame(rows)
    print(table(frame))
    out.claim("peers.svg").write_text(svg(picture(frame)))
    for _, r in frame[frame["difference"] > TOLERANCE].iterrows():
        print(f"{r['side']}, {r['problem']}, {r['method']}: another answer", file=sys.stderr)


if __name__ == "__main__":
    run_command(Config, main, __doc__)
