"""The image study's tables and pictures."""

import matplotlib.pyplot as plt
import pandas as pd

from experiments.draw import sets
from experiments.draw.plots import WEIGHTING, panels, training_rows, weighting_rows
from experiments.draw.tables import META, argument, meta_table
from experiments.methods import METHODS

SETTING = ["model", "dataset", "init"]
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
        made = {key: ", ".join(map(str, rows[key].drop_duplicates())) for key in ("seed", "commit")}
        head = f"**{name}**, accuracy, %: seeds {made['seed']}, commit {made['commit']}"
        parts.append(f"{head}\n\n{meta_table(rows, 'accuracy', 1, 100, {})}")
    return "\n".join([*parts, META])


def to_frame(runs) -> pd.DataFrame:
    """A row a run; `validation_mean` is the mean of its meta-validations: who learns faster."""
    return sets.to_frame(runs, validation_mean="validation_accuracy")


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
            if argument(ours, "gamma").nunique() > 1:
                figures[f"{name}-{method}-gamma"] = plot_gammas(ours, METHODS[method].title)
    return figures


def plot_gammas(frame: pd.DataFrame, title: str):
    """After Figure 6: HyperDistill's accuracy against γ, on a scale of 1 - γ."""
    share = 1 - argument(frame, "gamma")
    figure, axis = plt.subplots(figsize=(5.5, 4), layout="constrained")
    for part in ("test", "validation"):
        y = 100 * frame[f"{part}_accuracy"]
        line = axis.plot(share, y, ".", alpha=0.5)[0]
        means = y.groupby(share).mean()
        axis.plot(means.index, means, color=line.get_color(), label=f"meta-{part}")
    axis.set(
        xscale="log",
        xlabel="1 - γ",
        ylabel="accuracy, %",
        title=title.partition(" (")[0] + ", by γ",
    )
    axis.invert_xaxis()
    axis.legend()
    return figure
