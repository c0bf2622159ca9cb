"""Plots that several studies draw alike."""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from experiments.common.folder import read_json
from experiments.common.tables import Runs


def plot_over_training(
    runs: Runs, field: str, title: str, path: pathlib.Path, counted: str = "inner optimisations"
) -> None:
    """After Figures 2 and 5: a figure of metrics.jsonl, mean over the runs, their range shaded."""
    figure, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for colour, found in enumerate(runs.values()):
        finished = [run for run in found if not run.summary["diverged"]]
        rows = [[row for row in run.metrics if row.get(field) is not None] for run in finished]
        length = min(map(len, rows), default=0)
        if not length:  # every run diverged, or its metrics are not here
            continue
        values = _smooth(np.array([[row[field] for row in r[:length]] for r in rows]))
        steps = [row["inner_optimisation"] for row in rows[0][:length]]
        axis.plot(steps, values.mean(0), f"C{colour}", label=found[0].config["title"])
        axis.fill_between(steps, values.min(0), values.max(0), color=f"C{colour}", alpha=0.1, lw=0)
    axis.set(title=title, xlabel=counted)
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _smooth(values: np.ndarray, points: int = 25) -> np.ndarray:
    """Running means, [runs, steps], over as many steps as leave about `points` that differ."""
    width = max(1, values.shape[1] // points)
    padded = np.pad(values, ((0, 0), (width - 1, 0)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, width, axis=1).mean(-1)


def plot_weighting(runs: Runs, path: pathlib.Path) -> None:
    """After Figure 7: the weight that MetaWeightNet has learnt to give an example by its loss."""
    files = {n: [read_json(run.path / "weighting.json") for run in r] for n, r in runs.items()}
    kept = {name: [f for f in found if f] for name, found in files.items() if any(found)}
    if not kept:
        return
    figure, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for colour, (name, found) in enumerate(kept.items()):
        curves = np.array([file["after"] for file in found])
        label = runs[name][0].config["title"]
        axis.plot(found[0]["losses"], curves.mean(0), f"C{colour}", label=label)
        axis.plot(found[0]["losses"], curves.T, f"C{colour}", alpha=0.25, lw=0.8)
    axis.set(xlabel="an example's loss", ylabel="its weight", title="learnt weighting functions")
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
