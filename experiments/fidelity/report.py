"""The fidelity study's table and pictures."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.draw.plots import draw, points
from experiments.draw.tables import count_runs, format_interval, method_table
from experiments.methods import METHODS

STAGES = ("random", "trained")
SHOWN = ("fo", "one-step", "nift", "paper-0.9", "fitted-0.9", "robust")
TITLES = {
    "nift": "N.IFT",
    "paper-0.0": "1-step, size fitted",
    "fitted-0.0": "1-step, size fitted, with momentum",
    "exact": "exact RMD",
}
GRIDS = {
    "greedy": "Greedy (γ={})",
    "paper": "HyperDistill (γ={})",
    "fitted": "HyperDistill, with momentum (γ={})",
    "size1": "HyperDistill, size 1 (γ={})",
    "eq7": "Eq. 7 (γ={})",
}
ONE_PASS = (
    " DrMAD and RMD once at T, or with every loss, have one hypergradient for the whole, held "
    "against the exact one of the same losses."
)
SIZED = ("paper-0.9", "fitted-0.9")  # whose sizes Algorithm 4 fits: the paper's, with momentum
READINGS = dict(zip(SIZED, ("hyperdistill", "hyperdistill-momentum")))


def title(method: str) -> str:
    """A method's name for people."""
    grid, _, gamma = method.rpartition("-")
    if method in METHODS:
        return TITLES.get(method, METHODS[method].label)
    return TITLES.get(method, GRIDS.get(grid, method).format(gamma))


def measured(run, stage: str, kind: str) -> pd.DataFrame:
    """STAGE-cosines.csv, -costs.csv or -samples.csv of a run."""
    return pd.read_csv(run.path / f"{stage}-{kind}.csv")


def to_frame(runs) -> pd.DataFrame:
    """A row for each run and method."""
    rows = []
    for run in runs:
        cosines = {stage: measured(run, stage, "cosines") for stage in STAGES}
        costs = measured(run, STAGES[1], "costs")
        for method in costs["method"].drop_duplicates():
            of = {stage: x[x["method"] == method] for stage, x in cosines.items()}
            cost = costs[costs["method"] == method]
            row = {"problem": run.config["problem"], "preset": run.config["preset"]}
            row |= {"seed": run.config["seed"], "method": method}
            arguments = run.config.get("compared", {}).get(method) or {}
            row |= {f"argument.{name}": value for name, value in arguments.items()}
            for field in ("cosine", "second_order_cosine"):
                row |= {f"{field}_{stage}": x[field].mean() for stage, x in of.items()}
            row["second_order_ratios"] = _short(of[STAGES[1]]["second_order_ratio"])
            row |= {"products": cost["products"].iloc[0], "memory": cost["memory"].iloc[0]}
            row["seconds"] = json.dumps([float(f"{x:.8g}") for x in cost["seconds"]])
            names = ("inner_optimisations_done", "diverged", "commit", "device", "python")
            row |= {key: run.summary[key] for key in names}
            row["packages"] = json.dumps(run.summary["packages"])
            rows.append(row)
    return pd.DataFrame(rows)


def _short(values: pd.Series) -> str:
    """JSON of figures, to four digits."""
    return json.dumps([float(f"{x:.4g}") for x in values], separators=(",", ":"))


def _pooled(runs: pd.DataFrame, column: str) -> float:
    """The median over all steps, tasks and runs."""
    return np.median(np.concatenate([json.loads(text) for text in runs[column]]))


COLUMNS = {
    "cosine of g, random start": lambda runs: format_interval(runs["cosine_random"]),
    "meta-trained": lambda runs: format_interval(runs["cosine_trained"]),
    "cosine of g^SO, random start": lambda runs: format_interval(
        runs["second_order_cosine_random"]
    ),
    " meta-trained": lambda runs: format_interval(runs["second_order_cosine_trained"]),
    "norm of g^SO to exact, median, meta-trained": lambda runs: (
        f"{_pooled(runs, 'second_order_ratios'):.2f}"
    ),
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
        parts.append(
            f"**{problem}**\n\n{method_table(group, COLUMNS)}\n{runs}. Cosines to exact "
            "RMD, means over t = 1..T and the tasks, ± 95% over the runs. Products, seconds and "
            "memory (beside arguments and results) are of a whole inner optimisation with a "
            "hypergradient after every step, a fit of θ included."
            + ONE_PASS * ("drmad" in set(group["method"]))
            + "\n"
        )
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
            named = _named(run, "theta", f"seed {run.config['seed']}")
            rows += points(problem, "theta", named, theta.iloc[:, 0], theta["theta"])
    return rows


def _stage_series(problem: str, stage: str, runs) -> list[dict]:
    rows, cosines = [], [measured(run, stage, "cosines") for run in runs]
    for method in cosines[0]["method"].drop_duplicates():
        for field in _fields(method):
            values = np.array(
                [
                    x[x["method"] == method].pivot(index="task", columns="t", values=field).mean()
                    for x in cosines
                ]
            )
            x, named = np.arange(1, values.shape[1] + 1), _named(runs[0], method, "")
            drawn = (x <= 10) | (x % 2 == 0)  # half of the later ones: as good a curve
            values = values[:, drawn]
            rows += points(problem, f"{stage} {field}", named, x[drawn], values.mean(0), values)
    for task, samples in measured(runs[0], stage, "samples").groupby("task"):
        named = _named(runs[0], SIZED[0], f"task {task}")
        rows += points(problem, f"{stage} samples", named, samples["x"], samples["y"])
    return rows


def _fields(method: str) -> list[str]:
    """Names the series of a method."""
    fields = []
    if method in SHOWN or method.startswith(("paper", "fitted", "size1")):
        fields.append("cosine")
    if method in SHOWN or method.startswith("eq7"):
        fields.append("second_order_cosine")
    return fields + ["second_order_ratio"] * (method in SIZED)


def _named(run, method: str, name: str):
    return run._replace(config={"method": method, "title": name})


def plots(frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """Pictures of each problem, after Figures 3, 4, 6 and 11."""
    figures = {}
    for problem, lines in series.groupby("setting"):
        done = frame.loc[frame["problem"] == problem, "inner_optimisations_done"].max()
        stages = dict(zip(STAGES, ("random start", f"after {done} inner optimisations")))
        figures[f"{problem}-figure3"] = plot_cosines(lines, stages)
        figures[f"{problem}-figure4"] = plot_size(lines, stages)
        if lines["method"].str.startswith("size1").pipe(lambda x: lines["method"][x].nunique()) > 1:
            figures[f"{problem}-figure6-11"] = plot_gammas(lines, stages)
    return figures


def plot_cosines(lines: pd.DataFrame, stages: dict[str, str]):
    """After Figure 3: cosines of g (a) and g^SO (b), and of Eq. 7's g^SO (c), at either stage."""
    columns = (
        ("cosine", SHOWN, "(a) g"),
        ("second_order_cosine", SHOWN, "(b) g$^{SO}$"),
        ("second_order_cosine", "eq7", "(c) Eq. 7"),
    )
    return _grid(lines, stages, columns, "cosine to exact RMD", (13, 7))


def plot_gammas(lines: pd.DataFrame, stages: dict[str, str]):
    """After Figures 6 and 11: HyperDistill's cosines by γ, its size fitted and constant."""
    fitted = _first(SIZED, lines).split("-")[0]
    columns = (("cosine", fitted, "θ fitted"), ("cosine", "size1", "π* = 1"))
    return _grid(lines, stages, columns, "cosine of g to exact RMD", (10, 7))


def _grid(lines: pd.DataFrame, stages: dict[str, str], columns, ylabel: str, size):
    """A row of panels for each stage, a column for each (series, methods or a grid of γ, title)."""
    figure, axes = plt.subplots(2, len(columns), figsize=size, sharex=True, layout="constrained")
    for row, (stage, name) in zip(axes, stages.items()):
        for axis, (field, kind, panel) in zip(row, columns):
            drawn = lines[lines["series"] == f"{stage} {field}"]
            looks = {method: {"color": c} for method, c in _colours(drawn, kind).items()}
            draw(axis, drawn.assign(title=drawn["method"]), looks, title)
            axis.set(title=f"{panel}, {name}", ylabel=ylabel)
            axis.legend(fontsize=8)
    for axis in axes[1]:
        axis.set(xlabel="inner step t")
    return figure


def _colours(lines: pd.DataFrame, kind) -> dict[str, str]:
    """By method, those that there are lines of: of a list, or of a grid of γ."""
    present = list(lines["method"].drop_duplicates())
    if isinstance(kind, str):
        drawn = [method for method in present if method.startswith(kind)]
        return dict(zip(drawn, plt.get_cmap("viridis")(np.linspace(0, 0.9, len(drawn)))))
    return {m: METHODS[READINGS.get(m, m)].colour for m in kind if m in present}


def plot_size(lines: pd.DataFrame, stages: dict[str, str]):
    """After Figure 4: Algorithm 4's samples (a, b), sizes over t (c), θ over meta-training (d)."""
    figure, axes = plt.subplots(1, 4, figsize=(16, 4), layout="constrained")
    for axis, letter, (stage, name) in zip(axes, "ab", stages.items()):
        samples = lines[lines["series"] == f"{stage} samples"]
        x, y = samples["x"].to_numpy(), samples["y"].to_numpy()
        horizon = samples.groupby("title").cumcount() + 1
        dots = axis.scatter(x, y, c=horizon, s=12)
        theta = (x @ y) / (x @ x) if x.any() else 0.0
        ends = np.array([0, x.max()])
        axis.plot(ends, theta * ends, "k", label=f"θ = {theta:.2f}")
        axis.set(title=f"({letter}) {name}", xlabel="x = ‖v‖ S", ylabel="y = σ(v)·g$^{SO}$")
        axis.legend()
        figure.colorbar(dots, ax=axis, label="horizon s")
    for colour, (stage, name) in zip(("0.6", "k"), stages.items()):
        for field, dash, size in (("ratio", "-", "estimated"), ("cosine", "--", "best")):
            line = lines[lines["series"] == f"{stage} second_order_{field}"]
            line = line[line["method"] == _first(SIZED, line)]
            axes[2].plot(line["x"], line["y"], dash, color=colour, label=f"{size} π*, {name}")
    axes[2].set(title="(c) size", xlabel="inner step t", ylabel="π* / ‖exact g$^{SO}$‖")
    for seed, line in lines[lines["series"] == "theta"].groupby("title"):
        axes[3].plot(line["x"], line["y"], label=seed)
    axes[3].set(title="(d) over meta-training", xlabel="inner optimisations", ylabel="θ")
    for axis in axes[2:]:
        axis.legend(fontsize=8)
    return figure


def _first(methods, lines: pd.DataFrame) -> str:
    """The first of the methods that there are lines of."""
    return next(method for method in methods if (lines["method"] == method).any())
