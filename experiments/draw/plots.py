"""Parts of the pictures: series over steps, bands over runs, panels for at most six methods."""

import json
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.draw.sets import by_title
from experiments.draw.tables import mean_interval
from experiments.methods import METHODS
from hdistill.training import Run

STYLES = ("-", "--", ":", "-.")
MOST, POINTS = 6, 25  # lines in a panel, points of a curve over meta-training


def style(drawn: pd.DataFrame) -> dict[str, dict]:
    """Colour and line by title: a method's colour; a second γ of it is dashed."""
    styles, counts = {}, dict[str, int]()
    for method, title in drawn[["method", "title"]].drop_duplicates().itertuples(index=False):
        count = counts[method] = counts.get(method, -1) + 1
        colour = METHODS[method].colour if method in METHODS else "C6"
        styles[title] = {"color": colour, "ls": STYLES[count % len(STYLES)]}
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


def weighting_picture(series: pd.DataFrame, name: str = "weighting") -> dict:
    """The picture of `weighting_rows`, if there are any."""
    drawn = series[series["series"] == "weighting"]
    columns = [("weighting", "learnt", "its weight")]
    return {name: panels(drawn, columns, "an example's loss")} if len(drawn) else {}


def draw(axis, lines: pd.DataFrame, styles: dict[str, dict], name: Callable = str) -> None:
    """A line for each title that has a style: its y over x, from low to high shaded."""
    for title, look in styles.items():
        line = lines[lines["title"] == title]
        axis.plot(line["x"], line["y"], label=name(title), **look)
        axis.fill_between(
            line["x"], line["low"], line["high"], color=look["color"], alpha=0.1, lw=0
        )


def panels(series: pd.DataFrame, columns: Sequence[tuple[str, str, str]], xlabel: str, **axes):
    """A column of panels for each series, a row for each six methods.

    Args:
      columns: (name of the series, title, label of y).
      axes: for every panel, as `yscale`.
    """
    looks = list(style(series).items())
    chunks = [dict(looks[i : i + MOST]) for i in range(0, len(looks), MOST)]
    shape = len(chunks), len(columns)
    size = 4.4 * shape[1] + 2.2, 3.3 * shape[0]
    figure, grid = plt.subplots(
        *shape, figsize=size, layout="constrained", squeeze=False, sharey="col"
    )
    for row, chunk in zip(grid, chunks):
        for axis, (name, title, ylabel) in zip(row, columns):
            draw(axis, series[series["series"] == name], chunk)
            axis.set(title=title, xlabel=xlabel, ylabel=ylabel, **axes)
        row[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def mark(axis, x: float, values, title: str, style: dict) -> None:
    """A method's point: mean ± 95% of the values at x, a square where its line is dashed."""
    mean, half = mean_interval(values)
    marker = "o" if style["ls"] == "-" else "s"
    half = 0 if np.isnan(half) else half
    axis.errorbar(x, mean, half, fmt=marker, color=style["color"], capsize=3, label=title)
