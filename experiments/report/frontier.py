"""RESULTS.md's frontier: what each method reaches, by its products and by its seconds."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from experiments.draw.plots import style
from experiments.draw.tables import count_runs, mean_interval, percent, products


def frontier(frame: pd.DataFrame, costs: pd.DataFrame, metric: str):
    """The picture of a set: mean ± 95% of its runs, each method at its own rate of λ.

    Args:
      frame: runs; each title is a point.
      costs: what `experiments.bench.cost` measured for the set's problem; a method that was not
        timed is only in the left panel.
      metric: "test_accuracy" or "test_mse"; methods with a mean error above 1 are left out.
    """
    accuracy = metric == "test_accuracy"
    frame = frame[frame.groupby("title")[metric].transform("mean") <= 1]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    seconds, styles = costs.set_index("name")["seconds"], style(frame)
    most = frame["title"].value_counts().max()
    for title, group in frame.groupby("title", sort=False):
        values = percent(group) if accuracy else group[metric].dropna()
        label = title + f" ({count_runs(len(values))})" * bool(len(values) < most)
        mean, half = mean_interval(values)
        look = {
            "fmt": "o" if styles[title].get("ls", "-") == "-" else "s",
            "color": styles[title]["color"],
        }
        prices = products(group), seconds.get(group["method"].iloc[0])
        for axis, price in zip(axes, prices):
            if price is not None:
                axis.errorbar(price, mean, np.nan_to_num(half), capsize=3, label=label, **look)
    axes[0].set_xscale("symlog", linthresh=10)
    axes[0].set_xlabel("products an inner optimisation")
    axes[0].set_ylabel("meta-test accuracy, %" if accuracy else "meta-test MSE")
    axes[1].set(xscale="log", xlabel="seconds an inner optimisation")
    axes[1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[1].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes[1].xaxis.set_minor_formatter(NullFormatter())
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure
