"""The sinusoid study's table and pictures."""

import numpy as np
import pandas as pd

from experiments.draw.plots import panels, training_rows
from experiments.draw.sets import paper_figures
from experiments.draw.tables import META, argument, format_number, meta_table
from experiments.sinusoid.presets import PAPER

LEARNING = (
    ("outer_loss", "meta-training", "outer loss at T, MSE"),
    ("validation_mse", "meta-validation", "MSE"),
)


COLUMNS = {
    "median": lambda group: format_number(group["test_mse"].median()),
    "worst": lambda group: format_number(group["test_mse"].max()),
}


def table(frame: pd.DataFrame) -> str:
    """Markdown: the MSE of each method, ours beside the paper's."""
    if "validation_mse" not in frame:  # the first sets lack it
        frame = frame.assign(validation_mse=np.nan)
    # Nothing of the paper's stands beside the smoke preset's figures, or those of other rates of λ.
    rates = argument(frame, "hyper_rate").fillna(PAPER.hyper_rate)
    comparable = set(frame["preset"]) <= {"cpu", "paper"} and set(rates) == {PAPER.hyper_rate}
    paper = paper_figures()["Table 4", "sinusoids"] if comparable else {}
    columns = {"paper (Table 4)": lambda group: paper.get(group["method"].iloc[0], "")} | COLUMNS
    return f"MSE\n\n{meta_table(frame, 'mse', columns)}\n{META}"


def series(runs) -> list[dict]:
    """Loss and validation error over meta-training; nothing of runs at several rates: too many."""
    if any(", rate" in run.config["title"] for run in runs):
        return []
    return [row for field, *_ in LEARNING for row in training_rows(runs, field)]


def plots(frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """After Figure 8: learning."""
    axes = {"yscale": "log", "ylim": (0.1, 10)}
    return panels("learning", series, LEARNING, "inner optimisations", **axes)
