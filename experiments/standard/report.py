"""Standard learning's table and pictures."""

import pandas as pd

from experiments.draw import sets
from experiments.draw.plots import WEIGHTING, panels, training_rows, weighting_rows
from experiments.draw.tables import format_interval, method_table, percent
from hdistill.training import read_run

STAGES = ("learning λ", "retraining")
FIELDS = {"outer_loss": "outer loss", "accuracy": "test accuracy"}
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


def to_frame(runs) -> pd.DataFrame:
    """A row a run; `learning_mean` is the mean of the first stage's tests: who learns faster."""
    return sets.to_frame(runs, learning_mean="accuracy")


def series(runs) -> list[dict]:
    """Loss and test accuracy over either stage; the weighting."""
    again = [run.path / "retrain" for run in runs]  # nothing where the first stage diverged
    rows = [read_run(path).rows if (path / "summary.json").exists() else [] for path in again]
    stages = zip(STAGES, (runs, [run._replace(rows=each) for run, each in zip(runs, rows)]))
    return [
        row
        for stage, of_stage in stages
        for field in FIELDS
        for row in training_rows(of_stage, field, name=f"{stage}: {field}")
    ] + weighting_rows(runs)


def plots(frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """Either stage over its stretches; after Figure 7, the weighting."""
    figures = panels("weighting", series, *WEIGHTING)
    for stage in STAGES:
        columns = [(f"{stage}: {field}", stage, label) for field, label in FIELDS.items()]
        figures |= panels(stage.split()[0], series, columns, "stretches of inner steps")
    return figures
