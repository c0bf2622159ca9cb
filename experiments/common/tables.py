"""Means and intervals over seeds; what the tables of several studies count alike."""

import numpy as np
from scipy import special

from experiments.common.runs import Run

Runs = dict[str, list[Run]]


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


def accuracies(runs: list[Run], field: str = "test_accuracy") -> dict[int, float]:
    """Percentages by seed, of the runs that did not diverge."""
    return {
        run.config["seed"]: 100 * run.summary[field]
        for run in runs
        if run.summary[field] is not None
    }


def products(runs: list[Run]) -> float:
    """Jacobian products of Φ for each inner optimisation of a task."""
    done = sum(run.summary["inner_optimisations_done"] for run in runs)
    return sum(run.summary["products"] for run in runs) / done if done else np.nan
