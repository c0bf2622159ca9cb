"""Draws every table and picture of experiments/results/ again, and writes RESULTS.md.

    python -m experiments.report

A set, experiments/results/STUDY/SET/, is the OUT/report of a study (`experiments.draw.sets`): its
runs.csv and series.csv are all that is read. notes.md, beside them, is what we make of it; its
first paragraph is what RESULTS.md says of the set. To add a set, copy OUT/report there and write
the notes. The pages of bench/ are written by hand around what their commands print. Nothing is
shown that was not run.
"""

import pathlib
from collections.abc import Iterator, Sequence

import pandas as pd

from experiments.attribution import report as attribution
from experiments.draw.sets import draw_set, load_set, svg
from experiments.draw.tables import ranges
from experiments.fidelity import report as fidelity
from experiments.image_meta import report as image_meta
from experiments.report.claims import claims_table, judge, summary
from experiments.report.frontier import frontier
from experiments.report.which import which_method
from experiments.sinusoid import report as sinusoid
from experiments.standard import report as standard

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
RESULTS_MD = ROOT / "RESULTS.md"
STUDIES = {
    "sinusoid": ("Sinusoids (Appendix G)", sinusoid),
    "image_meta": ("Images (Section 5, Appendix J)", image_meta),
    "fidelity": ("Fidelity (Section 5.1)", fidelity),
    "standard": ("Standard learning (Appendix H)", standard),
    "attribution": ("Attribution: which examples made a prediction", attribution),
}
INTRO = """# Results

Written by `python -m experiments.report` from the runs in `experiments/results/`.
"""
CLAIMS = """# Every claim of the paper

Written by `python -m experiments.report`. Figures of the paper (Lee et al., ICLR 2022) stand beside
ours where we have them. Presets `cpu` are scaled down (images of 16x16, half the channels and
steps, a tenth of the inner optimisations): they say of the paper's claims what the column "holds?"
says, and no more. A = ∂Φ/∂w and B = ∂Φ/∂λ of an inner step are what the methods multiply.
HyperDistill and DrMAD are the paper's: A and B are those of a step of plain gradient descent. The
rows that differentiate Φ with its momentum are named so. In image_meta/cpu HyperDistill is the one
*with momentum*; image_meta/rates and image_meta/tuned have both.
"""


def entry(page: pathlib.Path, what: str, runs: str = "") -> str:
    """A set's line: its page, its runs, what it is."""
    link = page.relative_to(ROOT).as_posix()
    return f"- [{page.parent.parent.name}/{page.parent.name}]({link}){runs}: {what}"


def first_paragraph(text: str) -> str:
    """The first paragraph that is not a heading."""
    return next(part for part in text.split("\n\n") if not part.startswith("#")).strip()


def study_sets(folders: Sequence[pathlib.Path], report) -> Iterator[str]:
    """Draws the sets of a study; gives the line of each."""
    for folder in folders:
        draw_set(report, folder, folder.joinpath)
        frame, _ = load_set(folder)
        runs = f" (preset {', '.join(frame['preset'].unique())}, seeds {ranges(frame['seed'])})"
        what = first_paragraph((folder / "notes.md").read_text())
        yield entry(folder / "README.md", what, runs)


def frontiers(costs: pd.DataFrame, **sets: tuple[pd.DataFrame, str]) -> Iterator[str]:
    """Draws what each method reaches, by its price; gives the pictures' lines."""
    for setting, (frame, metric) in sets.items():
        picture = RESULTS / f"frontier-{setting}.svg"
        picture.write_text(svg(frontier(frame, costs[costs["setting"] == setting], metric)))
        yield f"![what each method reaches, {setting}]({picture.relative_to(ROOT).as_posix()})\n"


def main() -> None:
    """Draws the sets and writes RESULTS.md."""
    names = [folder for study in STUDIES for folder in sorted((RESULTS / study).glob("*"))]
    sets = {f"{folder.parent.name}/{folder.name}": load_set(folder) for folder in names}
    sinusoids, images = sets["sinusoid/tuned"][0], sets["image_meta/tuned"][0]
    which = which_method((RESULTS / "which.md").read_text(), sinusoids, images)
    costs = pd.read_csv(RESULTS / "bench" / "cost" / "cost.csv")
    sets["bench/cost"] = costs, costs
    rows = pd.read_csv(RESULTS / "claims.csv", dtype=str, keep_default_na=False)
    claims = [judge(claim, *sets[claim["set"]]) for claim in rows.to_dict("records")]
    says = pd.read_csv(RESULTS / "says.csv", index_col="where")["says"]
    table = claims_table(claims).replace("(experiments/results/", "(")
    (RESULTS / "claims.md").write_text(f"{CLAIMS}\n{table}\n")
    parts = [INTRO, which]
    parts += frontiers(costs, sinusoid=(sinusoids, "test_mse"), warpgrad=(images, "test_accuracy"))
    parts += ["# The paper's tables and figures\n", summary(claims, says.to_dict()), ""]
    for study, (title, report) in STUDIES.items():
        of_study = [folder for folder in names if folder.parent.name == study]
        parts += [f"# {title}\n", *study_sets(of_study, report), ""]
    parts.append("# Measurements of the library\n")
    for page in sorted((RESULTS / "bench").glob("*/README.md")):
        parts.append(entry(page, first_paragraph(page.read_text())))
    parts.append("\n# Research\n\nWhat was tried and not kept:\n")
    for file in sorted((RESULTS / "research").glob("*.md")):
        parts.append(f"- [{file.stem}]({file.relative_to(ROOT).as_posix()})")
    RESULTS_MD.write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
