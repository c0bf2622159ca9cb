"""Means and intervals over seeds, and tables in Markdown."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import special


def mean_interval(values) -> tuple[float, float]:
    """Mean and half-width of its 95% interval (Student's t over independent runs).

    The half-width is nan for a single value.
    """
    values = np.asarray(values, float)
    if values.size < 2:
        return float(values.mean()) if values.size else np.nan, np.nan
    spread = values.std(ddof=1) / np.sqrt(values.size)
    return float(values.mean()), float(special.stdtrit(values.size - 1, 0.975) * spread)


def format_interval(values, digits: int = 3) -> str:
    """ "mean ± half-width" of the values that are there."""
    mean, half = mean_interval(pd.Series(values, dtype=float).dropna())
    if np.isnan(mean):
        return "–"
    kind = f".{digits}f" if abs(mean) < 1e4 else ".1e"
    return f"{mean:{kind}}" + ("" if np.isnan(half) else f" ± {half:{kind}}")


def format_number(value: float, digits: int = 3) -> str:
    """A dash for nan; in scientific notation where the figure calls for it."""
    if np.isnan(value):
        return "–"
    return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.1e}"


def difference(frame: pd.DataFrame, ours: str, base: str, column: str, scale: float = 1.0):
    """Seed by seed, of two methods named by title; pairs in which both runs ended finite."""
    values = {
        title: frame[frame["title"] == title].set_index("seed")[column] for title in (ours, base)
    }
    return (scale * (values[ours] - values[base])).dropna()


def verdict(differences, scaled_down: bool = True) -> str:
    """Tells whether differences are above 0, the claim's side, and how sure that is.

    Args:
      differences: of each run, ours less the other's.
      scaled_down: whether the study is smaller than the paper's.
    """
    mean, half = mean_interval(differences)
    if np.isnan(mean):
        return "not run"
    if np.isnan(half):
        return "not settled: one run"
    if abs(mean) <= half:
        return f"{'not at this scale' if scaled_down else 'level'}: the interval has 0"
    return "yes" if mean > 0 else "no"


def count_runs(number: int) -> str:
    """ "1 run", "3 runs"."""
    return f"{number} run" + "s" * (number != 1)


def argument(frame: pd.DataFrame, name: str) -> pd.Series:
    """An argument of each run's method, or the column of that name where there is one."""
    empty = pd.Series(np.nan, frame.index)
    given = frame.get(f"argument.{name}", empty)
    return given.where(given.notna(), frame.get(name, empty))


def format_rate(frame: pd.DataFrame) -> str:
    """λ's learning rate in a group of runs."""
    return ", ".join(f"{rate:g}" for rate in argument(frame, "hyper_rate").dropna().unique()) or "–"


def has_several_rates(frame: pd.DataFrame) -> bool:
    """Tells whether a method ran at more than one rate of λ."""
    rates = argument(frame, "hyper_rate")
    return bool(rates.groupby(frame["method"]).nunique().max() > 1)


def without_rate(title: str) -> str:
    """A method's title, λ's rate left out."""
    return title.split(", rate")[0]


def chosen_titles(frame: pd.DataFrame, figure: str, sign: int = 1) -> dict[str, str]:
    """By method, the title with the best mean meta-validation figure: its γ, or its rate.

    Args:
      sign: +1 where more is better, -1 where less is; a run that diverged counts as infinitely bad.
    """
    scores = (sign * frame[figure]).fillna(-np.inf)
    means = scores.groupby([frame["method"], frame["title"]], sort=False).mean()
    return {name: str(of.idxmax()[1]) for name, of in means.groupby(level=0, sort=False)}


def hyperdistill(chosen: dict[str, str]) -> str:
    """HyperDistill's title among the chosen: the paper's, else that with momentum."""
    return chosen.get("hyperdistill") or chosen["hyperdistill-momentum"]


def method_table(
    frame: pd.DataFrame, columns: dict[str, Callable], chosen: dict[str, str] | None = None
) -> str:
    """Markdown: a row for each title; of a method in several versions the chosen one is named so.

    Args:
      columns: (a title's runs) -> cell, by the column's name.
      chosen: of `chosen_titles`.
    """
    several, rows = frame.groupby("method")["title"].nunique(), []
    for title, group in frame.groupby("title", sort=False):
        method = group["method"].iloc[0]
        mark = several[method] > 1 and (chosen or {}).get(method) == title
        row = {"method": title + ", chosen" * bool(mark)}
        rows.append(row | {name: cell(group) for name, cell in columns.items()})
    return markdown(rows)


def rate_grid(frame: pd.DataFrame, metric: str, sign: int, scale: float = 1.0) -> str:
    """Markdown: the mean meta-validation of each method at each rate of λ, a row's best in bold.

    Args:
      metric: "mse" or "accuracy".
      sign: +1 where more is better, -1 where less is.
      scale: of the figures.
    """
    digits, every = 3 if scale == 1 else 1, argument(frame, "hyper_rate")
    rows = frame.assign(version=frame["title"], title=frame["title"].map(without_rate))
    versions = frame.assign(method=rows["title"])
    best = set(chosen_titles(versions, f"validation_{metric}", sign).values())

    def cell(rate):
        def at(runs):
            group = runs[every[runs.index] == rate]
            figures = scale * group[f"validation_{metric}"].dropna()
            lost = len(group) - len(figures)
            text = format_number(figures.mean(), digits) if len(figures) else ""
            text = f"{text} ({lost} of {len(group)} diverged)".strip() if lost else text
            return f"**{text}**" if best & set(group["version"]) else text

        return at

    def tested(runs):
        return format_interval(
            scale * runs.loc[runs["version"].isin(best), f"test_{metric}"], digits
        )

    columns = {f"{rate:g}": cell(rate) for rate in sorted(every.unique())}
    columns |= {
        "test at the best": tested,
        "runs at a rate": lambda runs: f"{every[runs.index].value_counts().max()}",
        "products": lambda runs: f"{products(runs):.0f}",
    }
    return method_table(rows, columns)


def markdown(rows: list[dict]) -> str:
    """A table, a column for each key."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([row.get(c, "") for c in columns] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def percent(group: pd.DataFrame, column: str = "test_accuracy") -> pd.Series:
    """Percentages by seed, of the runs that did not diverge."""
    return 100 * group.set_index("seed")[column].dropna()


def products(group: pd.DataFrame) -> float:
    """Jacobian products of Φ for each inner optimisation of a task."""
    done = group["inner_optimisations_done"].sum()
    return group["products"].sum() / done if done else np.nan


def provenance(frame: pd.DataFrame) -> str:
    """The lines that say what produced the runs."""

    def distinct(values) -> str:
        return ", ".join(dict.fromkeys(map(str, values)))

    packages = [", ".join(f"{k} {v}" for k, v in json.loads(x).items()) for x in frame["packages"]]
    return (
        f"- preset {distinct(frame['preset'])}, seeds {ranges(frame['seed'])}\n"
        f"- device {distinct(frame['device'])}; Python {distinct(frame['python'])}; "
        f"{distinct(packages)}\n"
        f"- commit {distinct(frame['commit'])}\n"
    )


def ranges(seeds) -> str:
    """Whole numbers in order, those that follow one another as "0 to 4"."""
    spans: list[list[int]] = []
    for seed in sorted(set(map(int, seeds))):
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in spans)
