"""The sinusoid study's table and pictures."""

import itertools
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.draw.plots import COLOURS, MOST, panels, points, style
from experiments.draw.sets import by_title
from experiments.draw.tables import (
    argument,
    chosen_titles,
    difference,
    format_interval,
    format_number,
    format_rate,
    has_several_rates,
    markdown,
    products,
    rate_grid,
    verdict,
    without_rate,
)
from experiments.sinusoid.presets import PAPER

# Table 4 of Lee et al. 2022: meta-test MSE, mean ± 95% interval over 5 runs.
TABLE_4 = {
    "fo": "0.567 ± 0.193",
    "one-step": "0.670 ± 0.283",
    "drmad": "1.086 ± 0.176",
    "nift": "0.502 ± 0.146",
    "hyperdistill": "0.327 ± 0.052",
}
ORDER = ("hyperdistill", "nift", "fo", "one-step", "drmad")  # the best first
PANELS = {"outer_loss": "meta-training", "validation_mse": "meta-validation"}


def table(frame: pd.DataFrame) -> str:
    """Markdown, ours beside the paper's. Runs that diverged are counted."""
    if "validation_mse" not in frame:  # the first sets lack it
        frame = frame.assign(validation_mse=np.nan)
    if has_several_rates(frame):
        return f"Meta-validation MSE by λ's rate, mean over seeds:\n\n{rate_grid(frame, 'mse', -1)}"
    rows, chosen = [], chosen_titles(frame, "validation_mse", -1)
    several = frame.groupby("method")["title"].nunique()
    # Nothing of the paper's stands beside the smoke preset's figures, or those of other rates of λ.
    rates = argument(frame, "hyper_rate").fillna(PAPER.hyper_rate)
    ours = set(frame["preset"]) <= {"cpu", "paper"} and set(rates) == {PAPER.hyper_rate}
    paper = TABLE_4 if ours else {}
    for title, group in frame.groupby("title", sort=False):
        finite, name = group["test_mse"].dropna(), group["method"].iloc[0]
        seconds, best = group["seconds_each"].dropna(), chosen[name] == title
        rows.append(
            {
                "method": title + (", chosen" if best and several[name] > 1 else ""),
                "paper (Table 4)": paper.get(name, "") if best else "",
                "test MSE, mean ± 95%": format_interval(finite),
                "median": format_number(finite.median(), 3) if len(finite) else "–",
                "worst": format_number(finite.max(), 3) if len(finite) else "–",
                "not finite": f"{len(group) - len(finite)} of {len(group)}",
                "meta-validation": format_interval(group["validation_mse"].dropna()),
                "λ's rate": format_rate(group),
                "products": f"{products(group):.1f}",
                "ms": f"{1000 * seconds.median():.0f}" if len(seconds) else "–",
            }
        )
    return (
        markdown(rows)
        + "\nMeans are over the runs whose test error is finite. *chosen*: the γ, the anchors or "
        "the rate with the best meta-validation. Products are Jacobian products of Φ for each "
        "inner optimisation of a task; ms is the median time of one inner optimisation of the "
        "meta-batch.\n" + (order(frame, chosen) if ours else "")
    )


def order(frame: pd.DataFrame, chosen: dict[str, str]) -> str:
    """Markdown: the paper's order, HyperDistill before all, then one by one; or nothing."""
    if not set(ORDER) <= chosen.keys():
        return ""
    rows, (first, *others) = [], ORDER
    for better, worse in [*((first, other) for other in others), *itertools.pairwise(others)]:
        gap = difference(frame, chosen[worse], chosen[better], "test_mse")
        rows.append(
            {
                "the paper's order": f"{chosen[better]} before {chosen[worse]}",
                "MSE less, mean ± 95%": format_interval(gap),
                "seeds on that side": f"{(gap > 0).sum()} of {len(gap)}",
                "holds?": verdict(gap, scaled_down=False),
            }
        )
    return "\n" + markdown(rows)


def series(runs) -> list[dict]:
    """Loss and validation error over meta-training; the curves that each first run fits.

    Nothing of runs at several rates, of which there are too many: `plots` draws them by rate.
    """
    rows: list[dict] = []
    if any(", rate" in run.config["title"] for run in runs):
        return rows
    for group in by_title(runs).values():
        for field in PANELS:
            length = max(len(run.rows) for run in group)
            values = np.full((len(group), length), np.inf)  # a run that has stopped has diverged
            for row, run in zip(values, group):
                figures = [entry[field] for entry in run.rows]
                row[: len(figures)] = [np.inf if x is None else x for x in figures]
            # "nearest" takes a run's own value: a mean with infinity would be infinite or nan.
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0, method="nearest")
            bounds = np.stack([low, np.minimum(high, 1e9)])
            rows += points("", field, group[0], range(1, length + 1), middle, bounds)
        file = group[0].path / "curves.json"
        if file.exists():
            for i, curve in enumerate(json.loads(file.read_text()), 1):
                rows += points("", f"task {i}: fit", group[0], curve["grid"], curve["fit"])
                if group[0] is runs[0]:  # the same for all
                    rows += points("", f"task {i}: truth", group[0], curve["grid"], curve["truth"])
                    rows += points("", f"task {i}: points", group[0], curve["x"], curve["y"])
    return rows


def plots(frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """After Figure 8, learning; and what is fitted to a few test tasks."""
    figures = {}
    if has_several_rates(frame):
        figures["rates"] = plot_rates(frame)
    learning = series[series["series"].isin(PANELS)]
    if len(learning):
        figures["learning"] = panels(
            learning,
            PANELS,
            "inner optimisations",
            ylabels=("outer loss at T, MSE", "MSE"),
            yscale="log",
            ylim=(0.1, 10),
        )
        figures["learning"].suptitle(
            "median over runs, quartiles shaded; a run that diverged counts as infinite", fontsize=9
        )
    curves = series[series["series"].str.startswith("task")]
    if len(curves):
        figures["curves"] = plot_curves(curves)
    return figures


def plot_rates(frame: pd.DataFrame):
    """Meta-validation error of each method by λ's rate: median over runs, a divergence infinite."""
    methods, rates = list(frame["method"].drop_duplicates()), argument(frame, "hyper_rate")
    chunks = [methods[i : i + MOST] for i in range(0, len(methods), MOST)]
    figure, axes = plt.subplots(
        1, len(chunks), figsize=(4.5 * len(chunks), 3.6), layout="constrained", sharey=True
    )
    errors = frame["validation_mse"].fillna(np.inf)
    for axis, chunk in zip(np.atleast_1d(axes), chunks):
        for name in chunk:
            of = frame["method"] == name
            line = errors[of].groupby(rates[of]).median()
            label = without_rate(frame.loc[of, "title"].iloc[0])
            axis.plot(line.index, line, "o-", ms=4, color=COLOURS[name], label=label)
        axis.set(xscale="log", yscale="log", ylim=(0.15, 3), xlabel="λ's rate")
        axis.legend(fontsize=7)
    np.atleast_1d(axes)[0].set(ylabel="meta-validation MSE, median")
    return figure


def plot_curves(curves: pd.DataFrame):
    """What each method's first run fits to a few test tasks."""
    tasks = list(dict.fromkeys(name.split(":")[0] for name in curves["series"]))
    titles = list(curves["title"].drop_duplicates())
    fits = MOST - 2  # beside the truth and the points
    chunks = [titles[i : i + fits] for i in range(0, len(titles), fits)]
    size = (4 * len(tasks) + 2, 3.2 * len(chunks))
    figure, grid = plt.subplots(
        len(chunks), len(tasks), figsize=size, layout="constrained", squeeze=False
    )
    styles = style(curves)
    for row, chunk in zip(grid, chunks):
        for axis, task in zip(row, tasks):
            truth, dots = (curves[curves["series"] == f"{task}: {k}"] for k in ("truth", "points"))
            axis.plot(truth["x"], truth["y"], "k", lw=0.8, label="truth")
            axis.plot(dots["x"], dots["y"], "ko", ms=4)
            for title in chunk:
                line = curves[(curves["series"] == f"{task}: fit") & (curves["title"] == title)]
                axis.plot(line["x"], line["y"], label=title, **styles[title])
            limit = 1.5 * truth["y"].abs().max()
            axis.set(title=f"test {task}", xlabel="x", ylabel="y", ylim=(-limit, limit))
        row[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure
