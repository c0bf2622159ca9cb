"""The attribution study's table and pictures."""

import json

import matplotlib.pyplot as plt
import pandas as pd
from scipy import stats

from experiments.draw.tables import count_runs, format_interval, markdown


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


def table(frame: pd.DataFrame) -> str:
    """Markdown: for each data set the LDS of each method; or of each recipe, beside its Ŝ."""
    several = frame["recipe"].nunique() > 1
    parts = []
    for problem, rows in frame.groupby("problem"):
        by = "recipe" if several else "attribution"
        lines = [_row(name, by, of) for name, of in rows.groupby(by, sort=False)]
        runs = count_runs(rows["seed"].nunique())
        parts.append(f"**{problem}**, {runs}: LDS, mean ± 95% over the runs\n\n{markdown(lines)}")
        if several:
            rho = stats.spearmanr(rows["smoothness"], rows["lds"])
            parts.append(
                f"Spearman correlation of Ŝ and LDS over {len(rows)} trainings: "
                f"{rho.statistic:.2f} (p = {rho.pvalue:.1g}).\n"
            )
    parts.append(
        "LDS: the Spearman correlation of foretold and true changes of a query's loss over the "
        "retrainings, mean over the queries. Memory is that of the weights a method keeps; "
        "*trainings a query* is its time for a query, in trainings.\n"
    )
    return "\n".join(parts)


def _row(name, by: str, of: pd.DataFrame) -> dict:
    row = {by: str(name)}
    for fraction, rows in of.groupby("fraction"):
        row[f"{fraction:.0%} left out"] = format_interval(rows["lds"])
    if by == "recipe":
        return row | {"Ŝ": f"{of['smoothness'].mean():.3f}"}
    row["memory, MB"] = f"{of['memory'].iloc[0] / 1e6:.1f}"
    return row | {"trainings a query": f"{of['trainings_a_query'].median():.2f}"}


def series(runs) -> list[dict]:
    """Nothing: the pictures are drawn from the rows."""
    return []


def plots(frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """LDS against memory for each method, or against Ŝ for each recipe."""
    several = frame["recipe"].nunique() > 1
    column, label = ("smoothness", "Ŝ") if several else ("memory", "bytes of weights kept")
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for problem, rows in frame[frame["fraction"] == 0.05].groupby("problem"):
        by = rows.groupby("recipe" if several else "attribution", sort=False)
        means = by[[column, "lds"]].mean().sort_values(column)
        axis.plot(means[column], means["lds"], "o" if several else "o-", ms=4, label=str(problem))
        for name, row in means.iterrows() if not several else []:
            axis.annotate(str(name), (row[column], row["lds"]), fontsize=6)
    axis.set(xlabel=label, ylabel="LDS, 5% left out", xscale="linear" if several else "log")
    axis.legend()
    return {"smoothness" if several else "memory": figure}
