"""The fidelity study's table and pictures."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.draw.plots import panels, points
from experiments.draw.tables import count_runs, format_interval, method_table
from experiments.methods import METHODS

STAGES = ("random", "trained")
SHOWN = ("fo", "one-step", "nift", "paper-0.9", "fitted-0.9", "robust")
FIGURES = (
    ("figure3", "|".join(SHOWN), ("cosine", "second_order_cosine")),
    ("figure3c", "eq7.*", ("second_order_cosine",)),
    ("figure6", "(paper|fitted)-.*", ("cosine",)),
    ("figure11", "size1.*", ("cosine",)),
)  # name, methods, what is drawn
TITLES = {
    "paper": "HyperDistill",
    "fitted": "HyperDistill, with momentum",
    "size1": "HyperDistill, size 1",
    "eq7": "Eq. 7",
    "greedy": "Greedy",
}  # of those with a γ
WORDS = (
    "Cosines to exact RMD, means over t = 1..T and the tasks, ± 95% over the runs. Products, "
    "seconds and memory (beside arguments and results) are of a whole inner optimisation with a "
    "hypergradient after every step, a fit of θ included. DrMAD and RMD once at T, or with every "
    "loss, have one hypergradient for the whole, held against the exact one of the same losses."
)
RATIOS = "second_order_ratios"
SIZED = ("paper-0.9", "fitted-0.9")  # whose sizes Algorithm 4 fits: the paper's, with momentum


def title(method: str) -> str:
    """A method's name for people."""
    grid, _, gamma = method.rpartition("-")
    if grid in TITLES:
        return f"{TITLES[grid]} (γ={gamma})"
    return {"nift": "N.IFT", "exact": "exact RMD"}.get(method) or METHODS[method].label


def measured(run, stage: str, kind: str) -> pd.DataFrame:
    """STAGE-cosines.csv, -costs.csv or -samples.csv of a run."""
    return pd.read_csv(run.path / f"{stage}-{kind}.csv")


def to_frame(runs) -> pd.DataFrame:
    """A row for each run and method."""
    rows = []
    for run in runs:
        random, trained = (measured(run, stage, "cosines") for stage in STAGES)
        costs, shared = measured(run, STAGES[1], "costs"), ("problem", "preset", "seed")
        for method, cost in costs.groupby("method", sort=False):
            row = {key: run.config[key] for key in shared} | {"method": method}
            arguments = run.config.get("compared", {}).get(method) or {}
            row |= {f"argument.{name}": value for name, value in arguments.items()}
            after = trained[trained["method"] == method]
            for field in ("cosine", "second_order_cosine"):
                row[f"{field}_random"] = random.loc[random["method"] == method, field].mean()
                row[f"{field}_trained"] = after[field].mean()
            ratios = [float(f"{x:.4g}") for x in after["second_order_ratio"]]
            row[RATIOS] = json.dumps(ratios, separators=(",", ":"))
            row |= {"products": cost["products"].iloc[0], "memory": cost["memory"].iloc[0]}
            row["seconds"] = json.dumps([float(f"{x:.8g}") for x in cost["seconds"]])
            names = ("inner_optimisations_done", "diverged", "commit", "device", "python")
            row |= {key: run.summary[key] for key in names}
            rows.append(row | {"packages": json.dumps(run.summary["packages"])})
    return pd.DataFrame(rows)


def _pooled(runs: pd.DataFrame, column: str) -> float:
    """The median over all steps, tasks and runs."""
    return np.median(np.concatenate([json.loads(text) for text in runs[column]]))


def _mean(column: str):
    return lambda runs: format_interval(runs[column])


COLUMNS = {
    "cosine of g, random start": _mean("cosine_random"),
    "meta-trained": _mean("cosine_trained"),
    "cosine of g^SO, random start": _mean("second_order_cosine_random"),
    " meta-trained": _mean("second_order_cosine_trained"),
    "norm of g^SO to exact, median, meta-trained": lambda x: f"{_pooled(x, RATIOS):.2f}",
    "products": lambda runs: f"{runs['products'].iloc[0]:.0f}",
    "s": lambda runs: f"{_pooled(runs, 'seconds'):.3f}",
    "MB": lambda runs: f"{runs['memory'].iloc[0] / 1e6:.1f}",
}


def table(frame: pd.DataFrame) -> str:
    """Markdown, for each problem: mean over t and tasks, ± 95% over runs, and what a method costs.

    Where a hypergradient is 0 its cosine is nan and left out; a dash where all are.
    """
    parts = []
    for problem, group in frame.assign(title=frame["method"].map(title)).groupby("problem"):
        runs = count_runs(group["seed"].nunique())
        parts.append(f"**{problem}**\n\n{method_table(group, COLUMNS)}\n{runs}. {WORDS}\n")
    return "\n".join(parts)


def series(runs) -> list[dict]:
    """Lists the points of the pictures; the setting is the problem."""
    rows = []
    for problem in dict.fromkeys(run.config["problem"] for run in runs):
        of_problem = [run for run in runs if run.config["problem"] == problem]
        for stage in STAGES:
            rows += _stage_series(problem, stage, of_problem)
        for run in of_problem:
            theta = pd.read_csv(run.path / "theta.csv")
            of = {"method": "theta", "title": f"seed {run.config['seed']}"}
            rows += points(problem, "theta", of, theta.iloc[:, 0], [theta["theta"]])
    return rows


def _stage_series(problem: str, stage: str, runs) -> list[dict]:
    cosines = pd.concat([measured(run, stage, "cosines").assign(run=run.path) for run in runs])
    steps = cosines["t"].drop_duplicates()
    drawn = steps[(steps <= 10) | (steps % 2 == 0)]  # half of the later ones: as good a curve
    rows = []
    for method, of in cosines.groupby("method", sort=False):
        fields = {f for _, methods, fs in FIGURES if re.fullmatch(methods, method) for f in fs}
        for field in sorted(fields) + ["second_order_ratio"] * (method in SIZED):
            values = of.groupby(["run", "t"])[field].mean().unstack("t")[drawn]
            named = {"method": method, "title": ""}
            rows += points(problem, f"{stage} {field}", named, drawn, values.to_numpy())
    for task, samples in measured(runs[0], stage, "samples").groupby("task"):
        named = {"method": SIZED[0], "title": f"task {task}"}
        rows += points(problem, f"{stage} samples", named, samples["x"], [samples["y"]])
    return rows


def plots(frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """Pictures of each problem after Figures 3 (a, b), 3 (c), 6, 11 and 4."""
    figures: dict = {}
    columns = {
        field: [(f"{stage} {field}", f"{what}, {stage}", "cosine to exact RMD") for stage in STAGES]
        for field, what in (("cosine", "g"), ("second_order_cosine", "g$^{SO}$"))
    }
    for problem, lines in series.groupby("setting"):
        for figure, methods, fields in FIGURES:
            drawn = lines[lines["method"].str.fullmatch(methods)]
            drawn = drawn.assign(title=drawn["method"].map(title))
            of = [panel for field in fields for panel in columns[field]]
            if drawn["method"].nunique() > 1:  # one γ is no grid
                figures |= panels(f"{problem}-{figure}", drawn, of, "inner step t")
        figures[f"{problem}-figure4"] = plot_size(lines)
    return figures


def plot_size(lines: pd.DataFrame):
    """After Figure 4: Algorithm 4's samples (a, b), sizes over t (c), θ over meta-training (d)."""
    figure, axes = plt.subplots(1, 4, figsize=(16, 4), layout="constrained")
    for axis, letter, colour, stage in zip(axes, "ab", ("0.6", "k"), STAGES):
        samples = lines[lines["series"] == f"{stage} samples"]
        x, y = samples["x"].to_numpy(), samples["y"].to_numpy()
        dots = axis.scatter(x, y, c=samples.groupby("title").cumcount() + 1, s=12)
        theta = (x @ y) / (x @ x) if x.any() else 0.0
        axis.plot(ends := np.array([0, x.max()]), theta * ends, "k", label=f"θ = {theta:.2f}")
        axis.set(title=f"({letter}) {stage}", xlabel="x = ‖v‖ S", ylabel="y = σ(v)·g$^{SO}$")
        figure.colorbar(dots, ax=axis, label="horizon s")
        for field, dash, size in (("ratio", "-", "estimated"), ("cosine", "--", "best")):
            line = lines[lines["series"] == f"{stage} second_order_{field}"]
            line = line[line["method"] == next(m for m in SIZED if (line["method"] == m).any())]
            axes[2].plot(line["x"], line["y"], dash, color=colour, label=f"{size} π*, {stage}")
    axes[2].set(title="(c) size", xlabel="inner step t", ylabel="π* / ‖exact g$^{SO}$‖")
    for seed, line in lines[lines["series"] == "theta"].groupby("title"):
        axes[3].plot(line["x"], line["y"], label=seed)
    axes[3].set(title="(d) over meta-training", xlabel="inner optimisations", ylabel="θ")
    for axis in axes:
        axis.legend(fontsize=8)
    return figure
