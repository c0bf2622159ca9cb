"""Means and intervals over seeds, and tables in Markdown."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import special

META = (
    "Means are over the runs that stayed finite; *minus 1-step* is over pairs of runs of one "
    "seed, which share their start and their tasks. Products are Jacobian products of Φ for "
    "each inner optimisation of a task; *s each* is the median time of one inner optimisation "
    "of the meta-batch. *chosen*: the γ, the anchors or the rate with the best meta-validation.\n"
)  # what `meta_table` shows


def mean_interval(values) -> tuple[float, float]:
    """Mean and half-width of its 95% interval (Student's t over independent runs); nan of one."""
    values = pd.Series(values, dtype=float).dropna()
    return values.mean(), special.stdtrit(max(len(values) - 1, 1), 0.975) * values.sem()


def format_number(value: float, digits: int = 3, half: float = np.nan) -> str:
    """A number, "± half" after it; a dash for nan; 1.2e+05 where the figure calls for it."""
    if np.isnan(value):
        return "–"
    kind = f".{digits}f" if abs(value) < 1e4 else ".1e"
    return f"{value:{kind}}" + ("" if np.isnan(half) else f" ± {half:{kind}}")


def format_interval(values, digits: int = 3) -> str:
    """ "mean ± half-width" of the values that are there."""
    mean, half = mean_interval(values)
    return format_number(mean, digits, half)


def difference(frame: pd.DataFrame, ours: str, base: str, column: str, scale: float = 1.0):
    """Seed by seed, of two methods named by title; pairs in which both runs ended finite."""
    of = (frame[frame["title"] == title].set_index("seed")[column] for title in (ours, base))
    return (scale * (next(of) - next(of))).dropna()


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


def chosen_titles(frame: pd.DataFrame, metric: str) -> dict[str, str]:
    """By method, the title with the best mean of validation_METRIC: its γ, or its rate.

    A run that diverged counts as infinitely bad.

    Args:
      metric: "accuracy" or "mse".
    """
    sign = 1 if metric == "accuracy" else -1
    scores = (sign * frame[f"validation_{metric}"]).fillna(-np.inf)
    means = scores.groupby([frame["method"], frame["title"]], sort=False).mean()
    return {name: str(of.idxmax()[1]) for name, of in means.groupby(level=0, sort=False)}


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
        cells = {name: cell(group) for name, cell in columns.items()}
        rows.append({"method": title + ", chosen" * bool(mark)} | cells)
    return markdown(rows)


def meta_table(frame: pd.DataFrame, metric: str, columns: dict[str, Callable]) -> str:
    """Markdown: a row for each title; `columns`, as `method_table` has them, before the others."""
    chosen = chosen_titles(frame, metric)
    scale, digits = (100, 2) if metric == "accuracy" else (1, 3)

    def figures(group, part="test"):
        return scale * group.set_index("seed")[f"{part}_{metric}"].dropna()

    base = frame[frame["title"] == chosen.get("one-step")]
    columns = columns | {
        "test, mean ± 95%": lambda group: format_interval(figures(group), digits),
        "meta-validation": lambda group: format_interval(figures(group, "validation"), digits),
        "minus 1-step": lambda group: (
            format_interval(figures(group) - figures(base), digits)
            if group.index[0] not in base.index
            else ""
        ),
        "not finite": lambda group: f"{len(group) - len(figures(group))} of {len(group)}",
        "λ's rate": lambda group: (
            ", ".join(f"{rate:g}" for rate in argument(group, "hyper_rate").dropna().unique())
            or "–"
        ),
        "products": lambda group: f"{products(group):.1f}",
        "s each": lambda group: format_number(group["seconds_each"].median()),
    }
    return method_table(frame, columns, chosen)


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
    names = "preset", "device", "python", "commit"
    said = {name: ", ".join(frame[name].drop_duplicates()) for name in names}
    each = (json.loads(text).items() for text in frame["packages"].drop_duplicates())
    packages = "; ".join(", ".join(f"{name} {of}" for name, of in versions) for versions in each)
    return (
        f"- preset {said['preset']}, seeds {ranges(frame['seed'])}\n"
        f"- device {said['device']}; Python {said['python']}; {packages}\n"
        f"- commit {said['commit']}\n"
    )


def ranges(seeds) -> str:
    """Whole numbers in order, those that follow one another as "0 to 4"."""
    seeds = pd.Series(sorted(set(map(int, seeds))))
    spans = seeds.groupby(seeds - seeds.index).agg(["min", "max"]).to_numpy()
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in spans)
