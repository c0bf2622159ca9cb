"""Means and intervals over seeds, and tables in Markdown."""

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
    """ "mean ± half-width", in scientific notation where the figures call for it."""
    mean, half = mean_interval(values)
    kind = f".{digits}f" if abs(mean) < 1e4 else ".1e"
    return (
        "–"
        if np.isnan(mean)
        else f"{mean:{kind}}" + ("" if np.isnan(half) else f" ± {half:{kind}}")
    )


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
