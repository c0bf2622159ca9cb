"""The attribution study's table and pictures."""

import json

import matplotlib.pyplot as plt
import pandas as pd
from scipy import stats

from experiments.draw.tables import count_runs, format_interval, method_table

WORDS = (
    "LDS: the Spearman correlation of foretold and true changes of a query's loss over the "
    "retrainings, mean over the queries, ± 95% over the runs. Memory is that of the weights a "
    "method keeps; *trainings a query* is its time for a query, in trainings.\n"
)


def to_frame(runs) -> pd.DataFrame:
    """A row for each run, recipe, method and fraction left out."""
    rows = []
    for run in runs:
        shared = {key: run.config[key] for key in ("problem", "preset", "seed")}
        shared |= {key: run.summary[key] for key in ("commit", "device", "python")}
        shared["packages"] = json.dumps(run.summary["packages"])
        for of in json.loads((run.path / "recipes.json").read_text()):
            figures = {key: of[key] for key in ("recipe", "smoothness", "predicted")}
            rows += [shared | figures | {"method": row["attribution"]} | row for row in of["rows"]]
    return pd.DataFrame(rows)


def drawn_by(frame: pd.DataFrame) -> tuple[str, str]:
    """What a row is, and what LDS is drawn against: of many recipes, or of many methods."""
    several = frame["recipe"].nunique() > 1
    return ("recipe", "smoothness") if several else ("attribution", "memory")


def table(frame: pd.DataFrame) -> str:
    """Markdown, for each data set: the LDS of each method, or of each recipe."""
    columns = {
        f"{fraction:.0%} left out": lambda of, fraction=fraction: format_interval(
            of.loc[of["fraction"] == fraction, "lds"]
        )
        for fraction in sorted(frame["fraction"].unique())
    } | {
        "Ŝ": lambda of: f"{of['smoothness'].mean():.3f}",
        "memory, MB": lambda of: f"{of['memory'].iloc[0] / 1e6:.1f}",
        "trainings a query": lambda of: f"{of['trainings_a_query'].median():.2f}",
    }
    parts = []
    for problem, rows in frame.assign(title=frame[drawn_by(frame)[0]]).groupby("problem"):
        runs = count_runs(rows["seed"].nunique())
        parts.append(f"**{problem}**, {runs}: LDS\n\n{method_table(rows, columns)}")
        if rows["recipe"].nunique() > 1:
            rho, p = stats.spearmanr(rows["smoothness"], rows["lds"])
            over = f"over {len(rows)} trainings: {rho:.2f} (p = {p:.1g})"
            parts.append(f"Spearman correlation of Ŝ and LDS {over}.\n")
    return "\n".join([*parts, WORDS])


def plots(frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """LDS against memory for each method, or against Ŝ for each recipe."""
    of, column = drawn_by(frame)
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for problem, rows in frame[frame["fraction"] == 0.05].groupby("problem"):
        means = rows.groupby(of, sort=False)[[column, "lds"]].mean().sort_values(column)
        axis.plot(means[column], means["lds"], "o", ms=4, label=str(problem))
        for name, row in means.iterrows() if column == "memory" else []:
            axis.annotate(str(name), (row[column], row["lds"]), fontsize=6)
    label, scale = {"memory": ("bytes of weights kept", "log"), "smoothness": ("Ŝ", "linear")}[
        column
    ]
    axis.set(xlabel=label, ylabel="LDS, 5% left out", xscale=scale)
    axis.legend()
    return {column: figure}
