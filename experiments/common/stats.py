"""Means and intervals over seeds."""

import numpy as np
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
