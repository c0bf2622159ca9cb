"""Writes RESULTS.md from the summaries of real runs in experiments/results/.

    python -m experiments.report

A results folder is the `--out` of a study. Its table stands under the command, device and commit
that its summaries name, its notes.md (what we make of it) below. Nothing is shown that was not run.
"""

import pathlib

from experiments.common.runs import Run, read_runs
from experiments.sinusoid_report import table

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


def section(folder: pathlib.Path) -> str:
    """One results folder of the sinusoid study."""
    runs = read_runs(folder)
    everything = [run for found in runs.values() for run in found]
    parts = [f"## {folder.name}", provenance(everything), table(runs).rstrip()]
    parts += [
        f"![{image.stem}]({image.relative_to(ROOT).as_posix()})"
        for image in sorted(folder.glob("*.png"))
    ]
    notes = folder / "notes.md"
    parts += [notes.read_text().strip()] if notes.exists() else []
    return "\n\n".join(parts)


def main() -> None:
    """Writes RESULTS.md."""
    intro = (
        "# Results\n\n"
        "Written by `python -m experiments.report` from the summaries in `experiments/results/`. "
        "Figures of the paper (Lee et al., ICLR 2022) stand beside ours; a blank is a figure that "
        "does not exist."
    )
    folders = sorted(path for path in RESULTS.iterdir() if path.is_dir())
    (ROOT / "RESULTS.md").write_text("\n\n".join([intro, *map(section, folders)]) + "\n")


if __name__ == "__main__":
    main()
