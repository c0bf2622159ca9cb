"""Parts of the pictures: series over steps, bands over runs, panels for at most six methods."""

import json
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.draw.runs import by_title
from experiments.methods import METHODS
from hdistill.training import Run

STYLES = ("-", "--", ":", "-.")
MOST, POINTS = 6, 25  # lines in a panel, points of a curve over meta-training
WEIGHTING = [("weighting", "learnt", "its weight")], "an example's loss"  # panels, label of x


def style(drawn: pd.DataFrame) -> dict[str, dict]:
    """Look by title: a method's colour, a second γ of it dashed; shades for what has no colour."""
    methods = drawn.drop_duplicates("title").set_index("title")["method"]
    others = list(methods[~methods.isin(METHODS)])
    shades = dict(zip(others, plt.get_cmap("viridis")(np.linspace(0, 0.9, len(others)))))
    count = methods.groupby(methods).cumcount()
    return {
        title: {"color": METHODS[method].colour, "ls": STYLES[count[title] % len(STYLES)]}
        if method in METHODS
        else {"color": shades[method]}
        for title, method in methods.items()
    }


def training_rows(runs: Sequence[Run], field: str, setting: str = "", name: str = "") -> list[dict]:
    """A figure of metrics.jsonl over the steps: mean of the runs that ended, and their range."""
    rows = []
    for group in by_title(runs).values():
        finished = [run.rows for run in group if not run.summary["diverged"]]
        told = [[(r["step"], r[field]) for r in of if r.get(field) is not None] for of in finished]
        values = pd.DataFrame([dict(of) for of in told if of], dtype=float).T.dropna()
        if len(values):
            width = max(1, len(values) // POINTS)
            drawn = values.rolling(width, min_periods=1).mean()[::-width][::-1]  # with the last
            rows += points(setting, name or field, group[0].config, drawn.index, drawn.T)
    return rows


def points(setting: str, name: str, of: dict, x, values) -> list[dict]:
    """Rows of a series of a method with a title: at each x mean and range of `values` [runs, x]."""
    shared = {"setting": setting, "series": name, "method": of["method"], "title": of["title"]}
    at = zip(x, np.min(values, 0), np.mean(values, 0), np.max(values, 0))
    return [shared | dict(zip(("x", "low", "y", "high"), point)) for point in at]


def weighting_rows(runs: Sequence[Run], setting: str = "") -> list[dict]:
    """After Figure 7: MetaWeightNet's weight of an example by its loss, after learning."""
    rows = []
    for group in by_title(runs).values():
        files = [run.path / "weighting.json" for run in group]
        curves = [json.loads(file.read_text()) for file in files if file.exists()]
        if curves:
            values = [curve["after"][::2] for curve in curves]
            rows += points(setting, "weighting", group[0].config, curves[0]["losses"][::2], values)
    return rows


def panels(
    picture: str, series: pd.DataFrame, columns: Sequence[tuple[str, str, str]], xlabel: str, **axes
) -> dict:
    """The picture by its name, if there is something to draw: six methods a row of panels.

    Args:
      columns: (name of the series, title, label of y) of each panel in a row.
      axes: for every panel, as `yscale`.
    """
    series = series[series["series"].isin([field for field, *_ in columns])]
    if not len(series):
        return {}
    looks = list(style(series).items())
    chunks = [dict(looks[i : i + MOST]) for i in range(0, len(looks), MOST)]
    shape = len(chunks), len(columns)
    size = 4.4 * shape[1] + 2.2, 3.3 * shape[0]
    figure, grid = plt.subplots(
        *shape, figsize=size, layout="constrained", squeeze=False, sharey="col"
    )
    for row, chunk in zip(grid, chunks):
        for axis, (field, title, ylabel) in zip(row, columns):
            for name, look in chunk.items():
                line = series[(series["series"] == field) & (series["title"] == name)]
                axis.plot(line["x"], line["y"], label=name, **look)
                band = line["x"], line["low"], line["high"]
                axis.fill_between(*band, color=look["color"], alpha=0.1, lw=0)
            axis.set(title=title, xlabel=xlabel, ylabel=ylabel, **axes)
        row[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return {picture: figure}
