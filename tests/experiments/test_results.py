"""The committed results: every table can be drawn again to the byte, from two files a set."""

import re
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from experiments.draw import sets
from experiments.draw.sets import draw_set, svg
from experiments.draw.tables import verdict
from experiments.report import __main__ as report
from experiments.report.frontier import frontier

SETS = [
    pytest.param(study, folder, id=f"{study}-{folder.name}")
    for study in report.STUDIES
    for folder in sorted((report.RESULTS / study).glob("*"))
]


@pytest.mark.parametrize("study, folder", SETS)
def test_a_set_is_drawn_again_from_its_two_files(study, folder, tmp_path, monkeypatch):
    copy = tmp_path / study / folder.name
    copy.mkdir(parents=True)
    for name in {"runs.csv", "series.csv", "notes.md"} & {path.name for path in folder.iterdir()}:
        shutil.copy(folder / name, copy / name)
    monkeypatch.setattr(sets, "svg", lambda figure: plt.close(figure) or "drawn")  # half the time
    draw_set(report.STUDIES[study][1], copy, copy.joinpath)
    assert (copy / "README.md").read_text() == (folder / "README.md").read_text()
    pictures = {path.name for path in folder.glob("*.svg")}
    assert {path.name for path in copy.glob("*.svg")} == pictures


def test_a_picture_s_words_keep_their_digits():
    figure, axis = plt.subplots()
    axis.plot([0, 1 / 3], [0, 2 / 3], label="γ=0.9999")
    axis.legend()
    text = svg(figure)
    assert "γ=0.9999" in text and not re.search(r'd="[^"]*\d\.\d{2}', text)


def test_the_frontier_has_each_method_and_says_how_many_runs():
    rows = [("fo", 0.6, 3), ("rmd", 0.3, 1), ("greedy", 7.0, 3)]
    frame = pd.DataFrame(
        {"method": name, "title": name.upper(), "seed": seed, "test_mse": error + 0.01 * seed}
        | {"products": 10, "inner_optimisations_done": 5}
        for name, error, runs in rows
        for seed in range(runs)
    )
    figure = frontier(frame, "test_mse")
    drawn = figure.axes[0].containers
    assert [points.get_label() for points in drawn] == ["FO", "RMD (1 run)"]
    np.testing.assert_allclose(drawn[0].lines[0].get_xydata()[0], [2, 0.61])
    plt.close(figure)


LARGER = {"fidelity/cpu": (19, 1.4e6), "fidelity/readings": (19, 1e6), "image_meta/cpu": (9, 4e5)}


def test_a_set_s_files_are_few_and_small():
    for folder in {path.parent for path in report.RESULTS.rglob("*") if path.is_file()}:
        files = [path for path in folder.iterdir() if path.is_file()]
        name = f"{folder.parent.name}/{folder.name}"
        most, largest = LARGER.get(name, (24 if folder.name == "research" else 8, 4e5))
        assert len(files) <= most and sum(x.stat().st_size for x in files) <= largest, folder
        assert {path.suffix for path in files} <= {".csv", ".json", ".md", ".svg"}
        assert not any(path.name == "made.json" for path in files)
        tables = [path.read_text() for path in files if path.suffix == ".csv"]
        assert all(text.count("\n") > 1 for text in tables)  # none is a header only


def test_results_md_is_what_the_command_writes(tmp_path, monkeypatch):
    copy = tmp_path / "results"
    shutil.copytree(report.RESULTS, copy)
    before = report.RESULTS_MD.read_text()
    monkeypatch.setattr(report, "RESULTS", copy)
    monkeypatch.setattr(report, "RESULTS_MD", tmp_path / "RESULTS.md")
    monkeypatch.setattr(report, "draw_set", lambda *arguments: None)
    claims = (report.RESULTS / "claims.md").read_text()
    monkeypatch.setattr(report, "ROOT", tmp_path)
    report.main()
    written = (tmp_path / "RESULTS.md").read_text()
    assert written.replace("(results/", "(experiments/results/") == before
    assert (copy / "claims.md").read_text() == claims


@pytest.mark.parametrize(
    "differences, expected",
    [
        ([1.0, 1.1, 0.9], "yes"),
        ([-1.0, -1.1, -0.9], "no"),
        ([1.0, -1.0, 0.3], "not at this scale"),
        ([1.0], "one run"),
        ([], "not run"),
    ],
)
def test_a_claim_holds_where_the_interval_says_so(differences, expected):
    assert expected in verdict(differences)
