"""The fidelity study's table and plots, from the CSV files that its runs left."""

import csv
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from experiments.common.methods import METHODS
from experiments.common.runs import Run, read_runs
from experiments.common.tables import format_interval

STAGES = ("random", "trained")
TITLES = {"nift": "N.IFT", "fitted-0.0": "1-step, size fitted", "exact": "exact RMD"}
GRIDS = {
    "greedy": "Greedy (γ={})",
    "fitted": "HyperDistill (γ={})",
    "size1": "HyperDistill, size 1 (γ={})",
    "eq7": "Eq. 7 (γ={})",
}
SHOWN = ("fo", "one-step", "nift", "greedy", "greedy-0.9", "fitted-0.0", "fitted-0.9", "robust")


def title(method: str) -> str:
    """A method's name for people."""
    grid, _, gamma = method.rpartition("-")
    if method in METHODS:
        return TITLES.get(method, METHODS[method].label)
    return TITLES.get(method, GRIDS.get(grid, method).format(gamma))


def read(path: pathlib.Path) -> list[dict]:
    """The rows of a CSV file; all but the method's name are numbers."""
    with path.open(newline="") as file:
        return [
            {k: v if k == "method" else float(v) for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def series(runs: list[Run], stage: str, field: str) -> dict[str, np.ndarray]:
    """A field of cosines.csv by method, [runs, tasks, T]."""
    found: dict[str, list] = {}
    for run in runs:
        rows = read(run.path / f"{stage}-cosines.csv")
        tasks = int(rows[-1]["task"]) + 1
        for method in dict.fromkeys(row["method"] for row in rows):
            values = [row[field] for row in rows if row["method"] == method]
            found.setdefault(method, []).append(np.reshape(values, (tasks, -1)))
    return {method: np.array(values) for method, values in found.items()}


def table(runs: list[Run]) -> str:
    """Markdown: mean over t and tasks, ± 95% over runs, and what a method costs."""
    lines = [
        "| method | cosine of g, random start | meta-trained | cosine of g^SO, random start "
        "| meta-trained | norm of g^SO to exact, median, meta-trained | products | s | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    cosines = [series(runs, stage, "cosine") for stage in STAGES]
    second = [series(runs, stage, "second_order_cosine") for stage in STAGES]
    ratios = series(runs, STAGES[1], "second_order_ratio")
    costs = [row for run in runs for row in read(run.path / f"{STAGES[1]}-costs.csv")]
    for method in cosines[0]:
        spent = [row for row in costs if row["method"] == method]
        means = [format_interval(_means(x[method]), 3) for x in cosines + second]
        cells = [
            title(method),
            *means,
            f"{np.median(ratios[method]):.2f}",
            f"{spent[0]['products']:.0f}",
            f"{np.median([row['seconds'] for row in spent]):.3f}",
            f"{spent[0]['memory'] / 1e6:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"{len(runs)} runs. Cosines to exact RMD, means over t = 1..T and the tasks, ± 95% over "
        "the runs. Products, seconds and memory (beside arguments and results) are of a whole "
        "inner optimisation with a hypergradient after every step, a fit of θ included.",
    ]
    return "\n".join(lines) + "\n"


def tables(problems: dict[str, list[Run]]) -> str:
    """Markdown: the table of each problem."""
    return "\n".join(f"**{problem}**\n\n{table(runs)}" for problem, runs in problems.items())


def _means(values: np.ndarray) -> list[float]:
    """Means over tasks and t of each run, [runs, tasks, T] -> [runs].

    Where a hypergradient is 0 its cosine is nan and left out; nan where all are.
    """
    return [float(np.nanmean(x)) if np.isfinite(x).any() else np.nan for x in values]


def report(out: pathlib.Path) -> str:
    """Writes table.md and the plots into `out`, a set for each problem; returns the tables."""
    problems = read_runs(out)
    for problem, runs in problems.items():
        plot_cosines(runs, out / f"{problem}-figure3.png")
        plot_size(runs, out / f"{problem}-figure4.png")
        plot_gammas(runs, out / f"{problem}-figure6-11.png")
    text = tables(problems)
    (out / "table.md").write_text(text)
    return text


def plot_cosines(runs: list[Run], path: pathlib.Path) -> None:
    """After Figure 3: cosines of g (a) and g^SO (b), and of Eq. 7's g^SO (c), at either stage."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), sharex=True, layout="constrained")
    for row, stage in zip(axes, STAGES):
        grid = [m for m in series(runs, stage, "cosine") if m.startswith("eq7")]
        for axis, field, methods, name in (
            (row[0], "cosine", SHOWN, "(a) g"),
            (row[1], "second_order_cosine", SHOWN, "(b) g$^{SO}$"),
            (row[2], "second_order_cosine", grid, "(c) Eq. 7"),
        ):
            _draw(axis, series(runs, stage, field), methods)
            axis.set(title=f"{name}, {_stage(runs, stage)}", ylabel="cosine to exact RMD")
    for axis in axes[1]:
        axis.set(xlabel="inner step t")
    axes[0, 0].legend(fontsize=8)
    axes[0, 2].legend(fontsize=8)
    _save(figure, path)


def plot_size(runs: list[Run], path: pathlib.Path) -> None:
    """After Figure 4: Algorithm 4's samples (a, b), sizes over t (c), θ over meta-training (d)."""
    figure, axes = plt.subplots(1, 4, figsize=(16, 4), layout="constrained")
    for axis, letter, stage in zip(axes, "ab", STAGES):
        rows = read(runs[0].path / f"{stage}-samples.csv")
        x, y, s = (np.array([row[k] for row in rows]) for k in "xys")
        points = axis.scatter(x, y, c=s, s=12)
        theta = (x @ y) / (x @ x) if x.any() else 0.0
        ends = np.array([0, x.max()])
        axis.plot(ends, theta * ends, "k", label=f"θ = {theta:.2f}")
        axis.set(
            title=f"({letter}) {_stage(runs, stage)}",
            xlabel="x = ‖v‖ S",
            ylabel="y = σ(v)·g$^{SO}$",
        )
        axis.legend()
        figure.colorbar(points, ax=axis, label="horizon s")
    for colour, stage in enumerate(STAGES):
        for field, style in (("ratio", "-"), ("cosine", "--")):
            values = series(runs, stage, f"second_order_{field}")["fitted-0.9"].mean((0, 1))
            said = "estimated π*" if field == "ratio" else "best π*"
            steps = np.arange(1, len(values) + 1)
            axes[2].plot(steps, values, f"C{colour}{style}", label=f"{said}, {_stage(runs, stage)}")
    axes[2].set(title="(c) π* / ‖exact g$^{SO}$‖", xlabel="inner step t")
    axes[2].legend(fontsize=8)
    for run in runs:
        rows = read(run.path / "theta.csv")
        m, theta = ([row[k] for row in rows] for k in ("inner_optimisation", "theta"))
        axes[3].plot(m, theta, label=f"seed {run.config['seed']}")
    axes[3].set(title="(d) θ over meta-training", xlabel="inner optimisations")
    axes[3].legend(fontsize=8)
    _save(figure, path)


def plot_gammas(runs: list[Run], path: pathlib.Path) -> None:
    """After Figures 6 and 11: HyperDistill's cosines by γ, its size fitted and constant."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex=True, layout="constrained")
    for row, stage in zip(axes, STAGES):
        found = series(runs, stage, "cosine")
        for axis, grid, name in zip(row, ("fitted", "size1"), ("θ fitted", "π* = 1")):
            _draw(axis, found, [m for m in found if m.startswith(grid)])
            axis.set(title=f"{name}, {_stage(runs, stage)}", ylabel="cosine of g to exact RMD")
            axis.legend(fontsize=8)
    for axis in axes[1]:
        axis.set(xlabel="inner step t")
    _save(figure, path)


def _draw(axis, found: dict[str, np.ndarray], methods) -> None:
    """Mean over runs and tasks, the runs' range shaded."""
    for colour, method in enumerate(methods):
        values = found[method].mean(1)
        steps = np.arange(1, values.shape[1] + 1)
        axis.plot(steps, values.mean(0), f"C{colour}", label=title(method))
        axis.fill_between(steps, values.min(0), values.max(0), color=f"C{colour}", alpha=0.1, lw=0)


def _stage(runs: list[Run], stage: str) -> str:
    done = max(run.summary["inner_optimisations_done"] for run in runs)
    return "random start" if stage == STAGES[0] else f"after {done} inner optimisations"


def _save(figure, path: pathlib.Path) -> None:
    figure.savefig(path, dpi=150)
    plt.close(figure)
