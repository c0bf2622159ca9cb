"""Standard learning's table and pictures."""

import pathlib

import numpy as np
import pandas as pd

from experiments.draw import sets
from experiments.draw.plots import panels, training_rows, weighting_rows
from experiments.draw.tables import format_interval, markdown, percent
from hdistill.training import read_run

STAGES = ("learning λ", "retraining")


def table(frame: pd.DataFrame) -> str:
    """Markdown: one row for each method."""
    rows = []
    for title, group in frame.groupby("title", sort=False):
        finished = group.dropna(subset="test_accuracy")
        steps = (group["inner_optimisations_done"] * group["stretch"]).sum()
        rows.append(
            {
                "method": title,
                "runs": str(len(group)),
                "test accuracy, %, mean ± 95%": format_interval(percent(finished), 2),
                "after the first stage, %": format_interval(
                    percent(finished, "first_stage_accuracy"), 2
                ),
                "not finite": str(len(group) - len(finished)),
                "products a step": f"{group['products'].sum() / max(steps, 1):.2f}",
                "s, first stage": f"{group['seconds'].mean():.0f}",
            }
        )
    return markdown(rows)


def to_frame(runs) -> pd.DataFrame:
    """A row a run; `learning_mean` is the mean of the first stage's tests: who learns faster."""
    tests = [[row["accuracy"] for row in run.rows if "accuracy" in row] for run in runs]
    means = [np.mean(each) if each else np.nan for each in tests]
    return sets.to_frame(runs).assign(learning_mean=means)


def series(runs) -> list[dict]:
    """Loss and test accuracy over either stage; the weighting."""
    rows = []
    retrained = [run._replace(rows=_retraining(run.path / "retrain")) for run in runs]
    for stage, of_stage in zip(STAGES, (runs, retrained)):
        for field in ("outer_loss", "accuracy"):
            rows += training_rows(of_stage, field, name=f"{stage}: {field}")
    return rows + weighting_rows(runs)


def _retraining(folder: pathlib.Path) -> list[dict]:
    """The rows of a second stage that ended, verified; none where the first one diverged."""
    return read_run(folder).rows if (folder / "summary.json").exists() else []


def plots(frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """Either stage over its stretches; after Figure 7, the weighting."""
    kinds: dict[str, tuple] = {
        stage: (
            {f"{stage}: outer_loss": stage, f"{stage}: accuracy": stage},
            "stretches of inner steps",
            ("outer loss", "test accuracy"),
        )
        for stage in STAGES
    }
    kinds["weighting"] = ({"weighting": "learnt"}, "an example's loss", ("its weight",))
    figures = {}
    for kind, (names, xlabel, ylabels) in kinds.items():
        drawn = series[series["series"].isin(names)]
        if len(drawn):
            figures[kind.split()[0]] = panels(drawn, names, xlabel, ylabels=ylabels)
    return figures
