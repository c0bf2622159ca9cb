"""Writes RESULTS.md from the summaries of real runs in experiments/results/.

    python -m experiments.report

A results folder is the `--out` of a study. Its table stands under the command, device and commit
that its summaries name, its notes.md (what we make of it) below. Nothing is shown that was not run.
"""

import pathlib
from collections.abc import Callable

from experiments.common.runs import Run, read_runs
from experiments.fidelity import report as fidelity_report
from experiments.image_meta import report as image_report
from experiments.sinusoid import report as sinusoid_report
from experiments.standard import report as standard_report

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"


def provenance(runs: list[Run]) -> str:
    """The lines that say what produced the runs."""

    def distinct(values) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values))

    packages = [", ".join(f"{k} {v}" for k, v in r.summary["packages"].items()) for r in runs]
    return "\n".join(
        [
            f"- preset {distinct(r.config['preset'] for r in runs)}, "
            f"seeds {distinct(r.config['seed'] for r in runs)}",
            f"- device {distinct(r.summary['device'] for r in runs)}; "
            f"Python {distinct(r.summary['python'] for r in runs)}; {distinct(packages)}",
            f"- commit {distinct(r.summary['commit'] for r in runs)}",
        ]
    )


def section(folder: pathlib.Path, table: Callable) -> str:
    """One results folder: what produced it, its table, plots and notes."""
    runs = read_runs(folder)
    everything = [run for found in runs.values() for run in found]
    parts = [f"## {folder.name}", provenance(everything), table(runs).rstrip()]
    parts += [
        f"![{image.stem}]({image.relative_to(ROOT).as_posix()})"
        for image in sorted(folder.glob("*.png"))
    ]
    return "\n\n".join([*parts, *notes(folder)])


def notes(folder: pathlib.Path) -> list[str]:
    """The folder's notes.md, if it has one."""
    file = folder / "notes.md"
    return [file.read_text().strip()] if file.exists() else []


def images(folder: pathlib.Path) -> str:
    """The image study: the tables over all settings, then each setting."""
    parts = [f"# Image meta-learning, {folder.name}"]
    for init, name in (("reptile", "Table 2"), ("fomaml", "Table 6")):
        parts += [
            f"After {name} ({init}): meta-test accuracy, %, mean ± 95% (runs); HyperDistill with "
            "the γ that meta-validation chose.",
            image_report.overview(folder, init).rstrip(),
        ]
    parts += notes(folder)
    settings = sorted(path for path in folder.iterdir() if path.is_dir())
    return "\n\n".join([*parts, *(section(path, image_report.table) for path in settings)])


def measured(folder: pathlib.Path) -> str:
    """A measurement that is told in its notes alone."""
    return "\n\n".join([f"# {folder.name}", *notes(folder)])


def main() -> None:
    """Writes RESULTS.md."""
    intro = (
        "# Results\n\n"
        "Written by `python -m experiments.report` from the summaries in `experiments/results/`. "
        "Figures of the paper (Lee et al., ICLR 2022) stand beside ours where we have them; a "
        "blank is a figure that we do not have."
    )
    parts = [
        show(path)
        for study, show in (
            ("sinusoid", lambda path: section(path, sinusoid_report.table)),
            ("images", images),
            ("fidelity", lambda path: section(path, fidelity_report.tables)),
            ("standard", lambda path: section(path, standard_report.table)),
            ("bench", measured),
        )
        for path in sorted(RESULTS.glob(f"{study}*"))
    ]
    (ROOT / "RESULTS.md").write_text("\n\n".join([intro, *parts]) + "\n")


if __name__ == "__main__":
    main()
