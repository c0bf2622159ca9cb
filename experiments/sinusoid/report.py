"""The sinusoid study's table and plots, from the folders that its runs left."""

import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from experiments.common.runs import Run, read_runs
from experiments.common.tables import format_interval

# Table 4 of Lee et al. 2022: meta-test MSE, mean ± 95% interval over 5 runs.
PAPER = {
    "fo": "0.567 ± 0.193",
    "one-step": "0.670 ± 0.283",
    "drmad": "1.086 ± 0.176",
    "nift": "0.502 ± 0.146",
    "hyperdistill": "0.327 ± 0.052",
}


def table(runs: dict[str, list[Run]]) -> str:
    """Markdown, ours beside the paper's. Runs that diverged are counted."""
    lines = [
        "| method | paper (Table 4) | test MSE, mean ± 95% | median | worst | not finite "
        "| products | ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in runs.values():
        summaries = [run.summary for run in found]
        finite = [s["test_mse"] for s in summaries if s["test_mse"] is not None]
        done = sum(s["inner_optimisations_done"] for s in summaries)
        products = sum(s["products"] for s in summaries) / done if done else np.nan
        seconds = [s["seconds_each"] for s in summaries if s["seconds_each"]]
        cells = [
            found[0].config["title"],
            PAPER.get(found[0].config["method"], ""),
            format_interval(finite),
            _number(np.median(finite)) if finite else "–",
            _number(np.max(finite)) if finite else "–",
            f"{len(found) - len(finite)} of {len(found)}",
            f"{products:.1f}",
            f"{1000 * np.median(seconds):.0f}" if seconds else "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Means are over the runs whose test error is finite. Products are Jacobian products of Φ "
        "for each inner optimisation of a task; ms is the median time of one inner optimisation "
        "of the meta-batch.",
    ]
    return "\n".join(lines) + "\n"


def report(out: pathlib.Path) -> str:
    """Writes table.md, learning.png and curves.png into `out`; returns the table."""
    runs = read_runs(out)
    text = table(runs)
    (out / "table.md").write_text(text)
    plot_learning(runs, out / "learning.png")
    plot_curves(runs, out / "curves.png")
    return text


def plot_learning(runs: dict[str, list[Run]], path: pathlib.Path) -> None:
    """After Figure 8: training loss and validation error over meta-training."""
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 4), layout="constrained")
    panels = [
        ("outer_loss", "meta-training: outer loss at T"),
        ("validation_mse", "meta-validation: MSE"),
    ]
    for axis, (field, title) in zip(axes, panels):
        for colour, found in enumerate(runs.values()):
            length = max(len(run.metrics) for run in found)
            values = np.full((len(found), length), np.inf)  # a run that has stopped has diverged
            for row, run in zip(values, found):
                figures = [entry[field] for entry in run.metrics]
                row[: len(figures)] = [np.inf if x is None else x for x in figures]
            # "nearest" takes a run's own value: a mean with infinity would be infinite or nan.
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0, method="nearest")
            steps = np.arange(1, length + 1)
            axis.plot(steps, middle, f"C{colour}", label=found[0].config["title"])
            axis.fill_between(
                steps, low, np.minimum(high, 1e9), color=f"C{colour}", alpha=0.15, lw=0
            )
        axis.set(title=title, xlabel="inner optimisations", yscale="log", ylim=(0.1, 10))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.suptitle(
        "median over runs, quartiles shaded; a run that diverged counts as infinite", fontsize=9
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_curves(runs: dict[str, list[Run]], path: pathlib.Path) -> None:
    """What each method's first run fits to a few test tasks."""
    files = {name: found[0].path / "curves.json" for name, found in runs.items()}
    kept = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    if not kept:
        return
    tasks = next(iter(kept.values()))
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(4 * len(tasks) + 2, 3.5), layout="constrained", squeeze=False
    )
    for i, axis in enumerate(axes[0]):
        axis.plot(tasks[i]["grid"], tasks[i]["truth"], "k--", lw=1, label="truth")
        axis.plot(tasks[i]["x"], tasks[i]["y"], "ko", ms=4, label="training points")
        limit = 1.5 * np.abs(tasks[i]["truth"]).max()
        for colour, (name, curves) in enumerate(kept.items()):
            title = runs[name][0].config["title"]
            axis.plot(curves[i]["grid"], curves[i]["fit"], f"C{colour}", lw=1.2, label=title)
        axis.set(title=f"test task {i + 1}", xlabel="x", ylim=(-limit, limit))
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 1e4 else f"{value:.1e}"
