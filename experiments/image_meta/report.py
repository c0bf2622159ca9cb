"""The image study's tables and pictures."""

import pandas as pd

from experiments.draw.plots import WEIGHTING, panels, training_rows, weighting_rows
from experiments.draw.tables import META, argument, meta_table, ranges
from experiments.methods import METHODS

SETTING = ["model", "dataset", "init"]
MEANS = {"validation_mean": "validation_accuracy"}  # over a run's rows: who learns faster
LEARNING = (
    ("outer_loss", "meta-training", "outer loss at T"),
    ("validation_accuracy", "meta-validation", "accuracy"),
)


def settings(frame: pd.DataFrame):
    """(name, rows) of each model, data set and initialisation."""
    for key, rows in frame.groupby(SETTING, sort=True):
        yield "-".join(key), rows


def table(frame: pd.DataFrame) -> str:
    """Markdown: a table for each setting, after Tables 2 (reptile) and 6 (fomaml)."""
    parts = []
    for name, rows in settings(frame):
        head = f"**{name}**, accuracy, %: seeds {ranges(rows['seed'])}"
        parts.append(f"{head}\n\n{meta_table(rows, 'accuracy', {})}")
    return "\n".join([*parts, META])


def series(runs) -> list[dict]:
    """Loss and validation accuracy over meta-training; MetaWeightNet's weighting."""
    rows, of = [], ["-".join(run.config[k] for k in SETTING) for run in runs]
    for name in dict.fromkeys(of):
        of_setting = [run for run, setting in zip(runs, of) if setting == name]
        for field, *_ in LEARNING:
            rows += training_rows(of_setting, field, name)
        rows += weighting_rows(of_setting, name)
    return rows


def plots(frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """Pictures of each setting, after Figures 2 and 5, 6 and 7."""
    figures: dict = {}
    for name, rows in settings(frame):
        lines = series[series["setting"] == name]
        figures |= panels(f"{name}-learning", lines, LEARNING, "inner optimisations")
        figures |= panels(f"{name}-weighting", lines, *WEIGHTING)
        for method, ours in rows[rows["method"].str.startswith("hyperdistill")].groupby("method"):
            accuracies = (100 * ours["test_accuracy"]).groupby(1 - argument(ours, "gamma"))
            gammas = accuracies.agg(low="min", y="mean", high="max").rename_axis("x").reset_index()
            if len(gammas) > 1:
                drawn = gammas.assign(series="gamma", method=method, title="meta-test")
                title = METHODS[method].title.partition(" (")[0] + ", by γ"
                of = [("gamma", title, "accuracy, %")]
                figures |= panels(f"{name}-{method}-gamma", drawn, of, "1 - γ", xscale="log")
    return figures
