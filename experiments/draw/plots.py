"""What the pictures share: a method's colour, bands over runs, a panel for at most six methods."""

import json
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.draw.sets import by_title
from experiments.draw.tables import mean_interval
from hdistill.training import Run

COLOURS = {
    "fo": "C7",
    "one-step": "C0",
    "drmad": "C5",
    "drmad-momentum": "#c49c94",
    "drmad-every": "#008080",
    "drmad-bent": "#7b9cc4",
    "nift": "C2",
    "greedy": "C8",
    "one-step-sized": "C9",
    "hyperdistill": "C3",
    "hyperdistill-apart": "#8c2d2d",
    "hyperdistill-momentum": "#ff9896",
    "robust": "C1",
    "rmd-end": "C4",
    "rmd-every": "#5254a3",
    "rmd-window": "#9c9ede",
    "rmd": "k",
    "unlearnt": "C6",
}
STYLES = ("-", "--", ":", "-.")
MOST, POINTS = 6, 25  # lines in a panel, points of a curve over meta-training


def style(drawn: pd.DataFrame) -> dict[str, dict]:
    """Colour and line by title: a method's colour; a second γ of it is dashed."""
    styles, counts = {}, dict[str, int]()
    for method, title in drawn[["method", "title"]].drop_duplicates().itertuples(index=False):
        count = counts[method] = counts.get(method, -1) + 1
        styles[title] = {"color": COLOURS.get(method, "C6"), "ls": STYLES[count % len(STYLES)]}
    return styles


def training_rows(runs: Sequence[Run], field: str, setting: str = "", name: str = "") -> list[dict]:
    """A figure of metrics.jsonl over the steps: mean of the runs that ended, and their range."""
    rows = []
    for group in by_title(runs).values():
        finished = [run for run in group if not run.summary["diverged"]]
        metrics = [[row for row in run.rows if row.get(field) is not None] for run in finished]
        length = min(map(len, metrics), default=0)
        if not length:  # every run diverged
            continue
        values = _smooth(np.array([[row[field] for row in r[:length]] for r in metrics]))
        drawn = np.arange(length)[:: -max(1, length // POINTS)][::-1]  # the last is among them
        steps = [metrics[0][i]["step"] for i in drawn]
        values = values[:, drawn]
        rows += points(setting, name or field, group[0], steps, values.mean(0), values)
    return rows


def points(setting: str, name: str, run: Run, x, y, values=None) -> list[dict]:
    """Rows of a series: y at each x, and the range of `values` [runs, x]."""
    low, high = (y, y) if values is None else (np.min(values, 0), np.max(values, 0))
    shared = {"setting": setting, "series": name}
    shared |= {"method": run.config["method"], "title": run.config["title"]}
    return [shared | {"x": a, "low": b, "y": c, "high": d} for a, b, c, d in zip(x, low, y, high)]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running means, [runs, steps], over as many steps as leave about POINTS that differ."""
    width = max(1, values.shape[1] // POINTS)
    padded = np.pad(values, ((0, 0), (width - 1, 0)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, width, axis=1).mean(-1)


def weighting_rows(runs: Sequence[Run], setting: str = "") -> list[dict]:
    """After Figure 7: MetaWeightNet's weight of an example by its loss, after learning."""
    rows = []
    for group in by_title(runs).values():
        files = [run.path / "weighting.json" for run in group]
        curves = [json.loads(file.read_text()) for file in files if file.exists()]
        if curves:
            values = np.array([curve["after"][::2] for curve in curves])
            x = curves[0]["losses"][::2]
            rows += points(setting, "weighting", group[0], x, values.mean(0), values)
    return rows


def panels(
    series: pd.DataFrame, names: dict[str, str], xlabel: str, *, ylabels: Iterable[str], **axes
):
    """A column of panels for each series, a row for each six methods: mean and range over runs.

    Args:
      names: titles of the columns by the series' names.
      axes: for every panel, as `yscale`.
    """
    titles = list(series["title"].drop_duplicates())
    chunks = [titles[i : i + MOST] for i in range(0, len(titles), MOST)]
    figure, grid = plt.subplots(
        len(chunks),
        len(names),
        figsize=(4.4 * len(names) + 2.2, 3.3 * len(chunks)),
        layout="constrained",
        squeeze=False,
        sharey="col",
    )
    styles = style(series)
    for row, chunk in zip(grid, chunks):
        for axis, (name, title), ylabel in zip(row, names.items(), ylabels):
            for method in chunk:
                line = series[(series["series"] == name) & (series["title"] == method)]
                axis.plot(line["x"], line["y"], label=method, **styles[method])
                colour = styles[method]["color"]
                axis.fill_between(
                    line["x"], line["low"], line["high"], color=colour, alpha=0.1, lw=0
                )
            axis.set(title=title, xlabel=xlabel, ylabel=ylabel, **axes)
        row[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def mark(axis, x: float, values, title: str, style: dict) -> None:
    """A method's point: mean ± 95% of the values at x, a square where its line is dashed."""
    mean, half = mean_interval(values)
    marker = "o" if style["ls"] == "-" else "s"
    half = 0 if np.isnan(half) else half
    axis.errorbar(x, mean, half, fmt=marker, color=style["color"], capsize=3, label=title)
