"""The image study's tables and plots, from the folders that its runs left."""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from experiments.common.plots import plot_over_training, plot_weighting
from experiments.common.runs import Run, read_runs
from experiments.common.tables import Runs, accuracies, format_interval, mean_interval, products


def gain(runs: list[Run], base: list[Run]) -> str:
    """Mean ± 95% of the difference in test accuracy, seed by seed (same start, same tasks)."""
    ours, theirs = accuracies(runs), accuracies(base)
    return format_interval([ours[s] - theirs[s] for s in ours if s in theirs], 2)


def tuned(runs: Runs) -> str | None:
    """HyperDistill's folder whose γ has the best mean meta-validation accuracy."""
    found = [name for name in runs if name.startswith("hyperdistill")]

    def score(name):
        values = [run.summary["validation_accuracy"] for run in runs[name]]
        return np.mean([-1.0 if value is None else value for value in values])

    return max(found, key=score, default=None)


def table(runs: Runs) -> str:
    """Markdown: one row for each method, HyperDistill's at each γ."""
    lines = [
        "| method | runs | test accuracy, %, mean ± 95% | meta-validation, % | minus 1-step "
        "| not finite | products | s each | s a run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    best = tuned(runs)
    for name, found in runs.items():
        summaries = [run.summary for run in found]
        each = [s["seconds_each"] for s in summaries if s["seconds_each"]]
        cells = [
            found[0].config["title"] + (", chosen" if name == best else ""),
            str(len(found)),
            format_interval(list(accuracies(found).values()), 2),
            format_interval(list(accuracies(found, "validation_accuracy").values()), 2),
            "" if name == "one-step" else gain(found, runs.get("one-step", [])),
            str(len(found) - len(accuracies(found))),
            f"{products(found):.1f}",
            f"{np.median(each):.2f}" if each else "–",
            f"{np.mean([s['seconds'] for s in summaries]):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Means are over the runs that stayed finite; *minus 1-step* is over pairs of runs of one "
        "seed, which share their start and their tasks. Products are Jacobian products of Φ for "
        "each inner optimisation of a task; *s each* is the median time of one inner optimisation "
        "of the meta-batch, *s a run* the sum of them, compilation included, validation not. "
        "*chosen*: the γ with the best meta-validation.",
    ]
    return "\n".join(lines) + "\n"


def overview(out: pathlib.Path, init: str) -> str:
    """After Table 2 (Reptile) and Table 6 (FOMAML): test accuracy by method, a column a setting.

    Args:
      out: folder of the settings' folders, MODEL-DATASET-INIT.
      init: "reptile" or "fomaml".
    """
    settings = {
        path.name.removesuffix(f"-{init}"): read_runs(path)
        for path in sorted(out.glob(f"*-{init}"))
    }
    cells: dict[str, dict[str, str]] = {}
    for setting, runs in settings.items():
        best = tuned(runs)
        for name, found in runs.items():
            if name.startswith("hyperdistill") and name != best:
                continue
            title = "HyperDistill" if name == best else found[0].config["title"]
            value = format_interval(list(accuracies(found).values()), 2)
            cells.setdefault(title, {})[setting] = f"{value} ({len(found)})"
    lines = [
        "| method | " + " | ".join(settings) + " |",
        "|---" * (len(settings) + 1) + "|",
    ]
    for title, row in cells.items():
        lines.append(f"| {title} | " + " | ".join(row.get(x, "") for x in settings) + " |")
    return "\n".join(lines) + "\n"


def report(out: pathlib.Path) -> str:
    """Writes table.md and the plots into `out`; returns the table."""
    runs = read_runs(out)
    text = table(runs)
    (out / "table.md").write_text(text)
    if not runs:
        return text
    plot_over_training(runs, "outer_loss", "meta-training: outer loss at T", out / "training.png")
    plot_over_training(
        runs, "validation_accuracy", "meta-validation: accuracy", out / "validation.png"
    )
    plot_gammas(runs, out / "gamma.png")
    plot_products(runs, out / "products.png")
    plot_weighting(runs, out / "weighting.png")
    return text


def plot_gammas(runs: Runs, path: pathlib.Path) -> None:
    """After Figure 6: HyperDistill's accuracy against γ, on a scale of 1 - γ."""
    found = {
        r[0].config.get("arguments", r[0].config)["gamma"]: r
        for n, r in runs.items()
        if n.startswith("hyperdistill")
    }
    if len(found) < 2 or not any(accuracies(group) for group in found.values()):
        return
    figure, axis = plt.subplots(figsize=(5.5, 4), layout="constrained")
    for part in ("test", "validation"):
        rows = [
            (1 - gamma, value)
            for gamma, group in sorted(found.items())
            for value in accuracies(group, f"{part}_accuracy").values()
        ]
        x, y = map(np.array, zip(*rows))
        line = axis.plot(x, y, ".", alpha=0.5)[0]
        means = [y[x == share].mean() for share in np.unique(x)]
        axis.plot(np.unique(x), means, color=line.get_color(), label=f"meta-{part}")
    axis.set(xscale="log", xlabel="1 - γ", ylabel="accuracy, %", title="HyperDistill by γ")
    axis.invert_xaxis()
    axis.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_products(runs: Runs, path: pathlib.Path) -> None:
    """After Figure 4 (e): test accuracy, ± 95%, against products for each inner optimisation."""
    figure, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for colour, found in enumerate(runs.values()):
        mean, half = mean_interval(list(accuracies(found).values()))
        label = found[0].config["title"]
        fmt = f"C{colour}{'os'[colour // 10 % 2]}"  # the colours start again after ten
        axis.errorbar(products(found), mean, half, fmt=fmt, capsize=3, label=label)
    axis.set_xscale("symlog", linthresh=10)
    axis.set(
        xlabel="Jacobian products for each inner optimisation",
        ylabel="meta-test accuracy, %",
        title="what a product buys",
    )
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
