"""Draws every table and picture of experiments/results/ again, and writes RESULTS.md.

    python -m experiments.report

A set, experiments/results/STUDY/SET/, is the OUT/report of a study (`experiments.draw.sets`): its
runs.csv and series.csv are all that is read. To add a set, copy OUT/report there and write
notes.md, what we make of it; its first paragraph is what RESULTS.md says of the set. The pages of
bench/ are written by hand around what their commands print.
"""

import pathlib
from collections.abc import Sequence

import pandas as pd

from experiments.attribution import report as attribution
from experiments.draw.sets import draw_set, load_set, svg
from experiments.draw.tables import markdown, ranges
from experiments.fidelity import report as fidelity
from experiments.image_meta import report as image_meta
from experiments.report.claims import judge, summary, tally
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


def linked(text: str) -> str:
    """Links of a text that lies in results/, as RESULTS.md has them."""
    return text.replace("](", f"]({RESULTS.relative_to(ROOT).as_posix()}/")


def entries(pages: Sequence[pathlib.Path], runs: dict[pathlib.Path, str] | None = None) -> str:
    """A line for each page: its link, its runs, its first paragraph (that of notes.md, if any)."""
    lines = []
    for page in pages:
        notes = page.with_name("notes.md")
        text = (notes if notes.exists() else page).read_text()
        what = next(part for part in text.split("\n\n") if not part.startswith("#")).strip()
        place = page.relative_to(RESULTS)
        name = place.parent if page.stem == "README" else place.stem
        lines.append(linked(f"- [{name}]({place.as_posix()}){(runs or {}).get(page, '')}: {what}"))
    return "\n".join(lines) + "\n"


def study_pages(study: str) -> str:
    """Draws the sets of a study; gives the line of each."""
    runs = {}
    for folder in sorted((RESULTS / study).glob("*")):
        draw_set(STUDIES[study][1], folder, folder.joinpath)
        frame, _ = load_set(folder)
        presets = ", ".join(frame["preset"].unique())
        runs[folder / "README.md"] = f" (preset {presets}, seeds {ranges(frame['seed'])})"
    return entries(list(runs), runs)


def main() -> None:
    """Draws the sets and writes RESULTS.md."""
    sets = {
        f"{study}/{folder.name}": load_set(folder)
        for study in STUDIES
        for folder in (RESULTS / study).glob("*")
    }
    sinusoids, images = sets["sinusoid/tuned"][0], sets["image_meta/tuned"][0]
    sets["bench/cost"] = (pd.read_csv(RESULTS / "bench" / "cost" / "cost.csv"), pd.DataFrame())
    rows = pd.read_csv(RESULTS / "claims.csv", dtype=str, keep_default_na=False)
    claims = [judge(claim, *sets[claim["set"]]) for claim in rows.to_dict("records")]
    says = pd.read_csv(RESULTS / "says.csv", index_col="where")["says"].to_dict()
    head = (RESULTS / "claims-head.md").read_text()
    (RESULTS / "claims.md").write_text(f"{head}\n{markdown(claims)}")
    parts = [
        "# Results\n\nWritten by `python -m experiments.report` from experiments/results/.\n",
        which_method((RESULTS / "which.md").read_text(), sinusoids, images),
    ]
    for setting, *of in (
        ("sinusoid", sinusoids, "test_mse"),
        ("warpgrad", images, "test_accuracy"),
    ):
        (RESULTS / f"frontier-{setting}.svg").write_text(svg(frontier(*of)))
        parts.append(linked(f"![what each method reaches, {setting}](frontier-{setting}.svg)\n"))
    told = f"{len(claims)} claims: {tally(claims)}. Each, with its interval: [claims](claims.md)."
    parts += ["# The paper's tables and figures\n", linked(told), "", summary(claims, says)]
    parts += [f"# {title}\n\n{study_pages(study)}" for study, (title, _) in STUDIES.items()]
    for title, pages in (
        ("Measurements of the library", "bench/*/README.md"),
        ("Research: what was tried and not kept", "research/*.md"),
    ):
        parts.append(f"# {title}\n\n{entries(sorted(RESULTS.glob(pages)))}")
    RESULTS_MD.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
