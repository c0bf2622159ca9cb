"""RESULTS.md's frontier: what each method reaches, by its products and by its seconds."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from experiments.draw.plots import mark, style
from experiments.draw.tables import count_runs, percent, products


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
        method, label = group["method"].iloc[0], title
        if len(values) < most:
            label += f" ({count_runs(len(values))})"
        mark(axes[0], products(group), values, label, styles[title])
        if method in seconds:
            mark(axes[1], seconds[method], values, label, styles[title])
    axes[0].set_xscale("symlog", linthresh=10)
    axes[0].set_xlabel("products an inner optimisation")
    axes[0].set_ylabel("meta-test accuracy, %" if accuracy else "meta-test MSE")
    axes[1].set(xscale="log", xlabel="seconds an inner optimisation")
    axes[1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[1].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes[1].xaxis.set_minor_formatter(NullFormatter())
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure
