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


def _several(frame: pd.DataFrame) -> bool:
    return frame["recipe"].nunique() > 1


def table(frame: pd.DataFrame) -> str:
    """Markdown: for each data set the LDS of each method; or of each recipe, beside its Ŝ."""

    def lds(fraction: float):
        return lambda of: format_interval(of.loc[of["fraction"] == fraction, "lds"])

    parts, fractions = [], sorted(frame["fraction"].unique())
    columns = {f"{fraction:.0%} left out": lds(fraction) for fraction in fractions}
    if _several(frame):
        columns["Ŝ"] = lambda of: f"{of['smoothness'].mean():.3f}"
    else:
        columns["memory, MB"] = lambda of: f"{of['memory'].iloc[0] / 1e6:.1f}"
        columns["trainings a query"] = lambda of: f"{of['trainings_a_query'].median():.2f}"
    frame = frame.assign(title=frame["recipe" if _several(frame) else "attribution"])
    for problem, rows in frame.groupby("problem"):
        runs = count_runs(rows["seed"].nunique())
        parts.append(f"**{problem}**, {runs}: LDS\n\n{method_table(rows, columns)}")
        if _several(frame):
            rho = stats.spearmanr(rows["smoothness"], rows["lds"])
            parts.append(
                f"Spearman correlation of Ŝ and LDS over {len(rows)} trainings: "
                f"{rho.statistic:.2f} (p = {rho.pvalue:.1g}).\n"
            )
    return "\n".join([*parts, WORDS])


def series(runs) -> list[dict]:
    """Nothing: the pictures are drawn from the rows."""
    return []


def plots(frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """LDS against memory for each method, or against Ŝ for each recipe."""
    of, column, label, scale, line = "attribution", "memory", "bytes of weights kept", "log", "o-"
    if _several(frame):
        of, column, label, scale, line = "recipe", "smoothness", "Ŝ", "linear", "o"
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for problem, rows in frame[frame["fraction"] == 0.05].groupby("problem"):
        means = rows.groupby(of, sort=False)[[column, "lds"]].mean().sort_values(column)
        axis.plot(means[column], means["lds"], line, ms=4, label=str(problem))
        for name, row in means.iterrows() if scale == "log" else []:
            axis.annotate(str(name), (row[column], row["lds"]), fontsize=6)
    axis.set(xlabel=label, ylabel="LDS, 5% left out", xscale=scale)
    axis.legend()
    return {column: figure}
