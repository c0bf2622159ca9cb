"""RESULTS.md's table of what to take when: results/which.md, its figures filled in."""

import re

import pandas as pd

from experiments.draw.tables import chosen_titles, format_interval, percent, products


def which_method(text: str, sinusoids: pd.DataFrame, images: pd.DataFrame) -> str:
    """The table of what to take when, filled in.

    @fo@ is FO's test error on sinusoids, @p:fo@ its products; @image:fo@ and @image-p:fo@ are its
    accuracy and its products on images, @title:fo@ and @image-title:fo@ its titles; of a method in
    several versions those of the one with the best meta-validation.

    Args:
      sinusoids: runs.
      images: the same.
    """
    sinusoids = _chosen(sinusoids, "validation_mse", -1)
    images = _chosen(images, "validation_accuracy", 1)

    def figure(match: re.Match) -> str:
        frame = images if match[1] and match[1].startswith("image") else sinusoids
        group = frame[frame["method"] == match[2]]
        if match[1] in ("title", "image-title"):
            return str(group["title"].iloc[0])
        if match[1] in ("p", "image-p"):
            return f"{products(group):.0f}"
        if match[1] == "image":
            return f"{format_interval(percent(group), 1)}%"
        lost = group["test_mse"].isna().sum()
        return format_interval(group["test_mse"].dropna()) + f" ({lost} diverged)" * bool(lost)

    return re.sub(r"@(?:(p|title|image|image-p|image-title):)?([\w-]+)@", figure, text)


def _chosen(frame: pd.DataFrame, figure: str, sign: int) -> pd.DataFrame:
    return frame[frame["title"].isin(chosen_titles(frame, figure, sign).values())]
