"""Draws every table and picture of experiments/results/ again, and writes RESULTS.md.

    python -m experiments.report

A set, experiments/results/STUDY/SET/, is the OUT/report of a study (`experiments.common.sets`): its
runs.csv and series.csv are all that is read. notes.md, beside them, is what we make of it. To add a
set, copy OUT/report there. Nothing is shown that was not run.
"""

import json
import pathlib

import pandas as pd

from experiments.claims import first_page, which_method
from experiments.common.sets import draw_set, load_set
from experiments.fidelity import report as fidelity
from experiments.image_meta import report as image_meta
from experiments.sinusoid import report as sinusoid
from experiments.standard import report as standard
from hdistill.training import OwnedFolder

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
RESULTS_MD = ROOT / "RESULTS.md"
STUDIES = {
    "sinusoid": ("Sinusoids (Appendix G)", sinusoid),
    "image_meta": ("Images (Section 5, Appendix J)", image_meta),
    "fidelity": ("Fidelity (Section 5.1)", fidelity),
    "standard": ("Standard learning (Appendix H)", standard),
}
INTRO = """# Results

Written by `python -m experiments.report` from the runs in `experiments/results/`. Figures of the
paper (Lee et al., ICLR 2022) stand beside ours where we have them; a blank is a figure that we do
not have. Presets `cpu` are scaled down (images of 16x16, half the channels and steps, a tenth of
the inner optimisations): their figures stand apart from the paper's, and say of its claims only
what the last column says. A = ∂Φ/∂w and B = ∂Φ/∂λ of an inner step are what the methods multiply.
HyperDistill and DrMAD are the paper's: A and B are those of a step of plain gradient descent. The
rows that differentiate Φ with its momentum are named so. In image_meta/cpu and on CIFAR-10
HyperDistill is the one *with momentum*; image_meta/rates and image_meta/tuned have both.
"""


def provenance(frame: pd.DataFrame) -> str:
    """The lines that say what produced the runs."""

    def distinct(values) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values))

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


def section(folder: pathlib.Path, report) -> str:
    """A set: what produced it, its table, its pictures, its notes."""
    table = draw_set(report, OwnedFolder(folder, "a report"))
    pictures = [
        f"![{image.stem}]({image.relative_to(ROOT).as_posix()})\n"
        for image in sorted(folder.glob("*.svg"))
    ]
    parts = [f"## {folder.parent.name}/{folder.name}\n", provenance(load_set(folder)[0]), table]
    return "\n".join([*parts, *pictures, *notes(folder)])


def notes(folder: pathlib.Path) -> list[str]:
    """The folder's notes.md, if it has one."""
    file = folder / "notes.md"
    return [file.read_text().strip() + "\n"] if file.exists() else []


def main() -> None:
    """Draws the sets and writes RESULTS.md."""
    names = [folder for study in STUDIES for folder in sorted((RESULTS / study).glob("*"))]
    sets = {f"{folder.parent.name}/{folder.name}": load_set(folder) for folder in names}
    which = which_method(
        (RESULTS / "which.md").read_text(), sets["sinusoid/tuned"][0], sets["image_meta/tuned"][0]
    )
    costs = pd.read_csv(RESULTS / "bench" / "cost" / "cost.csv")
    parts = [INTRO, first_page(sets, costs), which]
    for study, (title, report) in STUDIES.items():
        parts.append(f"# {title}\n")
        parts += [section(folder, report) for folder in names if folder.parent.name == study]
    parts.append("# Measurements of the library\n")
    for folder in sorted((RESULTS / "bench").iterdir()):
        parts += [f"## bench/{folder.name}\n", *notes(folder)]
    parts.append("# Research\n\nWhat was tried and not kept:\n")
    for file in sorted((RESULTS / "research").glob("*.md")):
        parts.append(f"- [{file.stem}]({file.relative_to(ROOT).as_posix()})\n")
    RESULTS_MD.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
