"""The image study's tables and pictures."""

import matplotlib.pyplot as plt
import pandas as pd

from experiments.draw import sets
from experiments.draw.plots import panels, training_rows, weighting_picture, weighting_rows
from experiments.draw.tables import (
    argument,
    chosen_titles,
    format_interval,
    format_number,
    format_rate,
    has_several_rates,
    hyperdistill,
    markdown,
    method_table,
    percent,
    products,
    rate_grid,
)

SETTING = ["model", "dataset", "init"]
READINGS = {
    "hyperdistill": "HyperDistill",
    "hyperdistill-momentum": "HyperDistill, with momentum",
}  # whose γ is chosen
LEARNING = (
    ("outer_loss", "meta-training", "outer loss at T"),
    ("validation_accuracy", "meta-validation", "accuracy"),
)
WORDS = (
    "Means are over the runs that stayed finite; *minus 1-step* is over pairs of runs of one "
    "seed, which share their start and their tasks. Products are Jacobian products of Φ for "
    "each inner optimisation of a task; *s each* is the median time of one inner optimisation "
    "of the meta-batch, *s a run* the sum of them, compilation included, validation not. "
    "*chosen*: the γ, the anchors or the rate with the best meta-validation.\n"
)


def gain(group: pd.DataFrame, base: pd.DataFrame) -> str:
    """Mean ± 95% of the difference in test accuracy, seed by seed (same start, same tasks)."""
    return format_interval(percent(group) - percent(base), 2)


def tuned(frame: pd.DataFrame) -> str:
    """The title of HyperDistill with the γ that meta-validation chose."""
    return hyperdistill(chosen_titles(frame, "validation_accuracy"))


def settings(frame: pd.DataFrame):
    """(name, rows) of each model, data set and initialisation."""
    for key, rows in frame.groupby(SETTING, sort=True):
        yield "-".join(key), rows


def table(frame: pd.DataFrame) -> str:
    """Markdown: the settings side by side, then each by itself."""
    parts = []
    for init, name in (("reptile", "Table 2"), ("fomaml", "Table 6")):
        rows = frame[frame["init"] == init]
        if len(rows) and not any(has_several_rates(own) for _, own in settings(rows)):
            parts.append(
                f"After {name} ({init}): meta-test accuracy, %, mean ± 95% (runs); HyperDistill "
                f"with the γ that meta-validation chose.\n\n{overview(rows)}"
            )
    for name, rows in settings(frame):
        made = {key: ", ".join(map(str, rows[key].drop_duplicates())) for key in ("seed", "commit")}
        head = f"**{name}**: seeds {made['seed']}, commit {made['commit']}"
        if has_several_rates(rows):
            grid = rate_grid(rows, "accuracy", 1, 100)
            parts.append(f"{head}; meta-validation, %, by λ's rate\n\n{grid}")
        else:
            parts.append(f"{head}\n\n{setting_table(rows)}")
    return "\n".join([*parts, WORDS])


def setting_table(frame: pd.DataFrame) -> str:
    """One row for each method, HyperDistill's at each γ."""
    chosen = chosen_titles(frame, "validation_accuracy")
    base = frame[frame["title"] == chosen.get("one-step")]
    columns = {
        "runs": lambda group: str(len(group)),
        "test accuracy, %, mean ± 95%": lambda group: format_interval(percent(group), 2),
        "meta-validation, %": lambda group: format_interval(
            percent(group, "validation_accuracy"), 2
        ),
        "minus 1-step": lambda group: "" if group.index[0] in base.index else gain(group, base),
        "not finite": lambda group: str(len(group) - len(percent(group))),
        "λ's rate": format_rate,
        "products": lambda group: f"{products(group):.1f}",
        "s each": lambda group: format_number(group["seconds_each"].median(), 2),
        "s a run": lambda group: f"{group['seconds'].mean():.0f}",
    }
    return method_table(frame, columns, chosen)


def overview(frame: pd.DataFrame) -> str:
    """Test accuracy by method, a column a setting."""
    cells: dict[str, dict[str, str]] = {}
    columns = {name: name.rsplit("-", 1)[0] for name, _ in settings(frame)}
    for name, rows in settings(frame):
        for method, title in chosen_titles(rows, "validation_accuracy").items():
            group = rows[rows["title"] == title]
            value = f"{format_interval(percent(group), 2)} ({len(group)})"
            cells.setdefault(READINGS.get(method, title), {})[columns[name]] = value
    nothing = dict.fromkeys(columns.values(), "")
    return markdown([{"method": method} | nothing | row for method, row in cells.items()])


def to_frame(runs) -> pd.DataFrame:
    """A row a run; `validation_mean` is the mean of its meta-validations: who learns faster."""
    return sets.to_frame(runs).assign(validation_mean=sets.means(runs, "validation_accuracy"))


def series(runs) -> list[dict]:
    """Loss and validation accuracy over meta-training; MetaWeightNet's weighting."""
    rows, of = [], {run.path: "-".join(run.config[k] for k in SETTING) for run in runs}
    for name in dict.fromkeys(of.values()):
        of_setting = [run for run in runs if of[run.path] == name]
        for field, *_ in LEARNING:
            rows += training_rows(of_setting, field, name)
        rows += weighting_rows(of_setting, name)
    return rows


def plots(frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """Pictures of each setting, after Figures 2 and 5, 6 and 7."""
    figures = {}
    for name, rows in settings(frame):
        lines = series[series["setting"] == name]
        drawn = lines[lines["series"].isin([field for field, *_ in LEARNING])]
        if len(drawn):
            figures[f"{name}-learning"] = panels(drawn, LEARNING, "inner optimisations")
        figures |= weighting_picture(lines, f"{name}-weighting")
        for method, label in READINGS.items():
            ours = rows[rows["method"] == method]
            if argument(ours, "gamma").nunique() > 1:
                figures[f"{name}-{method}-gamma"] = plot_gammas(ours, label)
    return figures


def plot_gammas(frame: pd.DataFrame, label: str):
    """After Figure 6: HyperDistill's accuracy against γ, on a scale of 1 - γ."""
    share = 1 - argument(frame, "gamma")
    figure, axis = plt.subplots(figsize=(5.5, 4), layout="constrained")
    for part in ("test", "validation"):
        y = 100 * frame[f"{part}_accuracy"]
        line = axis.plot(share, y, ".", alpha=0.5)[0]
        means = y.groupby(share).mean()
        axis.plot(means.index, means, color=line.get_color(), label=f"meta-{part}")
    axis.set(xscale="log", xlabel="1 - γ", ylabel="accuracy, %", title=f"{label}, by γ")
    axis.invert_xaxis()
    axis.legend()
    return figure
