"""Standard learning: its table and plots, from the folders that its runs left."""

import pathlib

from experiments.common.folder import read_metrics
from experiments.common.plots import plot_over_training, plot_weighting
from experiments.common.runs import read_runs
from experiments.common.tables import Runs, accuracies, format_interval


def table(runs: Runs) -> str:
    """Markdown: one row for each method."""
    lines = [
        "| method | runs | test accuracy, %, mean ± 95% | after the first stage, % | not finite "
        "| products a step | s, first stage |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in runs.values():
        summaries = [run.summary for run in found]
        finished = [run for run in found if run.summary["test_accuracy"] is not None]
        steps = sum(s["inner_optimisations_done"] for s in summaries) * found[0].config["stretch"]
        cells = [
            found[0].config["title"],
            str(len(found)),
            format_interval(list(accuracies(finished).values()), 2),
            format_interval(list(accuracies(finished, "first_stage_accuracy").values()), 2),
            str(len(found) - len(finished)),
            f"{sum(s['products'] for s in summaries) / max(steps, 1):.2f}",
            f"{sum(s['seconds'] for s in summaries) / len(found):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def report(out: pathlib.Path) -> str:
    """Writes table.md and the plots into `out`; returns the table."""
    runs = read_runs(out)
    text = table(runs)
    (out / "table.md").write_text(text)
    if not runs:
        return text
    retrained = {
        name: [run._replace(metrics=read_metrics(run.path / "retrain")) for run in found]
        for name, found in runs.items()
    }
    counted = "stretches of inner steps"
    for stage, part in (("learning λ", runs), ("retraining", retrained)):
        name = stage.split()[0]
        plot_over_training(part, "outer_loss", f"{stage}: outer loss", out / f"{name}.png", counted)
        plot_over_training(
            part, "accuracy", f"{stage}: test accuracy", out / f"{name}-accuracy.png", counted
        )
    plot_weighting(runs, out / "weighting.png")
    return text
