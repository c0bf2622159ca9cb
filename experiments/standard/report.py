"""Standard learning's table and pictures."""

import pandas as pd

from experiments.draw.plots import WEIGHTING, panels, training_rows, weighting_rows
from experiments.draw.tables import format_interval, method_table, percent
from hdistill.training import read_run

STAGES = ("learning λ", "retraining")
FIELDS = {"outer_loss": "outer loss", "accuracy": "test accuracy"}
MEANS = {"learning_mean": "accuracy"}  # over a run's rows: who learns faster
COLUMNS = {
    "runs": lambda group: str(len(group)),
    "test accuracy, %, mean ± 95%": lambda group: format_interval(percent(group), 2),
    "after the first stage, %": lambda group: format_interval(
        percent(group, "first_stage_accuracy"), 2
    ),
    "not finite": lambda group: str(group["test_accuracy"].isna().sum()),
    "products a step": lambda group: f"{_products(group):.2f}",
    "s, first stage": lambda group: f"{group['seconds'].mean():.0f}",
}


def _products(group: pd.DataFrame) -> float:
    steps = (group["inner_optimisations_done"] * group["stretch"]).sum()
    return group["products"].sum() / max(steps, 1)


def table(frame: pd.DataFrame) -> str:
    """Markdown: one row for each method."""
    return method_table(frame, COLUMNS)


def series(runs) -> list[dict]:
    """Loss and test accuracy over either stage; the weighting."""
    again = []  # the runs whose first stage did not diverge
    for run in runs:
        if (run.path / "retrain" / "summary.json").exists():
            again.append(run._replace(rows=read_run(run.path / "retrain").rows))
    rows = weighting_rows(runs)
    for stage, of_stage in zip(STAGES, (runs, again)):
        for field in FIELDS:
            rows += training_rows(of_stage, field, name=f"{stage}: {field}")
    return rows


def plots(frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """Either stage over its stretches; after Figure 7, the weighting."""
    figures = panels("weighting", series, *WEIGHTING)
    for stage in STAGES:
        columns = [(f"{stage}: {field}", stage, label) for field, label in FIELDS.items()]
        figures |= panels(stage.split()[0], series, columns, "stretches of inner steps")
    return figures
