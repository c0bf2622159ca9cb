"""RESULTS.md's frontier: what each method reaches, by its products."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.draw.plots import style
from experiments.draw.tables import count_runs, mean_interval, percent, products


def frontier(frame: pd.DataFrame, metric: str):
    """The picture of a set: mean ± 95% of its runs, each method at its own rate of λ.

    Args:
      frame: runs; each title is a point.
      metric: "test_accuracy" or "test_mse"; methods with a mean error above 1 are left out.
    """
    accuracy = metric == "test_accuracy"
    frame = frame[frame.groupby("title")[metric].transform("mean") <= 1]
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    styles, most = style(frame), frame["title"].value_counts().max()
    for title, group in frame.groupby("title", sort=False):
        values = percent(group) if accuracy else group[metric].dropna()
        mean, half = mean_interval(values)
        look = styles[title] | {"ls": "", "marker": "so"[styles[title].get("ls", "-") == "-"]}
        label = title + f" ({count_runs(len(values))})" * bool(len(values) < most)
        axis.errorbar(products(group), mean, np.nan_to_num(half), capsize=3, label=label, **look)
    axis.set_xscale("symlog", linthresh=10)
    axis.set_xlabel("products an inner optimisation")
    axis.set_ylabel("meta-test accuracy, %" if accuracy else "meta-test MSE")
    figure.legend(loc="outside right center", fontsize=8)
    return figure
