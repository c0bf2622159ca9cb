"""RESULTS.md's table of what to take when: results/which.md, its figures filled in."""

import re

import pandas as pd

from experiments.draw.tables import chosen_titles, format_interval, percent, products


def which_method(text: str, sinusoids: pd.DataFrame, images: pd.DataFrame) -> str:
    """The table of what to take when, filled in.

    @fo@ is FO's test error on sinusoids, @p:fo@ its products, @title:fo@ its title; @image:fo@,
    @image-p:fo@ and @image-title:fo@ are those on images, with accuracy; of a method in several
    versions those of the one with the best meta-validation.
    """
    chosen = {
        study: frame[frame["title"].isin(chosen_titles(frame, metric).values())]
        for study, frame, metric in (("", sinusoids, "mse"), ("image", images, "accuracy"))
    }

    def figure(match: re.Match) -> str:
        study, field, method = match[1] or "", match[2], match[3]
        group = chosen[study].loc[lambda frame: frame["method"] == method]
        if field:
            return group["title"].iloc[0] if field == "title" else f"{products(group):.0f}"
        if study:
            return f"{format_interval(percent(group), 1)}%"
        lost = group["test_mse"].isna().sum()
        return format_interval(group["test_mse"]) + f" ({lost} diverged)" * bool(lost)

    return re.sub(r"@(?:(image)?-?(p|title)?:)?([\w-]+)@", figure, text)
