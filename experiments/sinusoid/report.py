"""The sinusoid study's table and pictures."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.draw.plots import MOST, panels, points, style, training_rows
from experiments.draw.sets import by_title, paper_figures
from experiments.draw.tables import (
    argument,
    chosen_titles,
    format_interval,
    format_number,
    format_rate,
    has_several_rates,
    method_table,
    products,
    rate_grid,
)
from experiments.sinusoid.presets import PAPER

LEARNING = (
    ("outer_loss", "meta-training", "outer loss at T, MSE"),
    ("validation_mse", "meta-validation", "MSE"),
)
WORDS = (
    "\nMeans are over the runs whose test error is finite. *chosen*: the γ, the anchors or "
    "the rate with the best meta-validation. Products are Jacobian products of Φ for each "
    "inner optimisation of a task; ms is the median time of one inner optimisation of the "
    "meta-batch.\n"
)


def table(frame: pd.DataFrame) -> str:
    """Markdown, ours beside the paper's. Runs that diverged are counted."""
    if "validation_mse" not in frame:  # the first sets lack it
        frame = frame.assign(validation_mse=np.nan)
    if has_several_rates(frame):
        return f"Meta-validation MSE by λ's rate, mean over seeds:\n\n{rate_grid(frame, 'mse', -1)}"
    chosen = chosen_titles(frame, "validation_mse", -1)
    # Nothing of the paper's stands beside the smoke preset's figures, or those of other rates of λ.
    rates = argument(frame, "hyper_rate").fillna(PAPER.hyper_rate)
    comparable = set(frame["preset"]) <= {"cpu", "paper"} and set(rates) == {PAPER.hyper_rate}
    paper = paper_figures("Table 4")["sinusoids"] if comparable else {}

    def of_paper(group):
        method, title = group[["method", "title"]].iloc[0]
        return paper.get(method, "") if chosen[method] == title else ""

    columns = {
        "paper (Table 4)": of_paper,
        "test MSE, mean ± 95%": lambda group: format_interval(group["test_mse"]),
        "median": lambda group: format_number(group["test_mse"].median()),
        "worst": lambda group: format_number(group["test_mse"].max()),
        "not finite": lambda group: f"{group['test_mse'].isna().sum()} of {len(group)}",
        "meta-validation": lambda group: format_interval(group["validation_mse"]),
        "λ's rate": format_rate,
        "products": lambda group: f"{products(group):.1f}",
        "ms": lambda group: format_number(1000 * group["seconds_each"].median(), 0),
    }
    return method_table(frame, columns, chosen) + WORDS


def series(runs) -> list[dict]:
    """Loss and validation error over meta-training; the curves that each first run fits.

    Nothing of runs at several rates, of which there are too many.
    """
    rows: list[dict] = []
    if any(", rate" in run.config["title"] for run in runs):
        return rows
    for field, *_ in LEARNING:
        rows += training_rows(runs, field)
    for first, *_ in by_title(runs).values():
        file = first.path / "curves.json"
        for i, curve in enumerate(json.loads(file.read_text()) if file.exists() else [], 1):
            rows += points("", f"task {i}: fit", first, curve["grid"], curve["fit"])
            if first is runs[0]:  # the same for all
                rows += points("", f"task {i}: truth", first, curve["grid"], curve["truth"])
                rows += points("", f"task {i}: points", first, curve["x"], curve["y"])
    return rows


def plots(frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """After Figure 8, learning; and what is fitted to a few test tasks."""
    figures = {}
    learning = series[series["series"].isin([field for field, *_ in LEARNING])]
    if len(learning):
        axes = {"yscale": "log", "ylim": (0.1, 10)}
        figures["learning"] = panels(learning, LEARNING, "inner optimisations", **axes)
    curves = series[series["series"].str.startswith("task")]
    if len(curves):
        figures["curves"] = plot_curves(curves)
    return figures


def plot_curves(curves: pd.DataFrame):
    """Draws the fits of each method's first run to a few test tasks."""
    tasks = curves["series"].str.split(":").str[0]
    looks = list(style(curves).items())
    chunks = [looks[i : i + MOST - 2] for i in range(0, len(looks), MOST - 2)]
    shape = len(chunks), tasks.nunique()
    size = 4 * shape[1] + 2, 3.2 * shape[0]
    figure, grid = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
    for row, chunk in zip(grid, chunks):
        for axis, (task, lines) in zip(row, curves.groupby(tasks)):
            by_kind = dict(list(lines.groupby(lines["series"].str.split(": ").str[1])))
            axis.plot(by_kind["truth"]["x"], by_kind["truth"]["y"], "k", lw=0.8, label="truth")
            axis.plot(by_kind["points"]["x"], by_kind["points"]["y"], "ko", ms=4)
            for title, look in chunk:
                fit = by_kind["fit"][by_kind["fit"]["title"] == title]
                axis.plot(fit["x"], fit["y"], label=title, **look)
            limit = 1.5 * by_kind["truth"]["y"].abs().max()
            axis.set(title=f"test {task}", xlabel="x", ylabel="y", ylim=(-limit, limit))
        row[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure
