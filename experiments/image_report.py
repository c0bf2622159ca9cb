"""The image study's tables and plots, from the folders that its runs left."""

import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.common.folder import read_json
from experiments.common.runs import Run, read_runs
from experiments.common.stats import format_interval, mean_interval

Runs = dict[str, list[Run]]


def accuracies(runs: list[Run], field: str = "test_accuracy") -> dict[int, float]:
    """Percentages by seed, of the runs that did not diverge."""
    return {
        run.config["seed"]: 100 * run.summary[field]
        for run in runs
        if run.summary[field] is not None
    }


def gain(runs: list[Run], base: list[Run]) -> str:
    """Mean ± 95% of the difference in test accuracy, seed by seed (same start, same tasks)."""
    ours, theirs = accuracies(runs), accuracies(base)
    return format_interval([ours[s] - theirs[s] for s in ours if s in theirs], 2)


def products(runs: list[Run]) -> float:
    """Jacobian products of Φ for each inner optimisation of a task."""
    done = sum(run.summary["inner_optimisations_done"] for run in runs)
    return sum(run.summary["products"] for run in runs) / done if done else np.nan


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
    plot_over_training(runs, "accuracy", "meta-validation: accuracy", out / "validation.png")
    plot_gammas(runs, out / "gamma.png")
    plot_products(runs, out / "products.png")
    plot_weighting(runs, out / "weighting.png")
    return text


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


def plot_gammas(runs: Runs, path: pathlib.Path) -> None:
    """After Figure 6: HyperDistill's accuracy against γ, on a scale of 1 - γ."""
    found = {r[0].config["gamma"]: r for n, r in runs.items() if n.startswith("hyperdistill")}
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


def write_weighting(path: pathlib.Path, model, before, after) -> None:
    """The weighting function before and after meta-training, for Figure 7."""
    losses = jnp.linspace(0.0, 10.0, 101)
    curves = {"before": model.weights(before, losses), "after": model.weights(after, losses)}
    rows = {name: curve.tolist() for name, curve in curves.items()}
    path.write_text(json.dumps({"losses": losses.tolist(), **rows}))


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
