"""Standard learning: the protocol, its data, a smoke run that is cut and resumed, its report."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run import lanes
from experiments.standard import __main__ as standard
from experiments.standard.presets import PRESETS
from experiments.standard.setting import Setting, corrupt, halves
from hdistill.data.pool import Examples

pytestmark = pytest.mark.filterwarnings("ignore::hdistill.ZeroHypergradientWarning")


def test_paper_preset_is_appendix_h():
    paper = PRESETS["paper"]
    assert (paper.steps, paper.learning_rate, paper.corruption) == (10_000, 0.01, 0.4)
    assert (paper.image_size, paper.channels, paper.batch) == (32, 32, 100)
    assert (paper.gamma, paper.size, paper.neumann) == (0.9, 1.0, (5, 5))
    assert paper.steps % paper.stretch == paper.stretch % paper.neumann[1] == 0


def test_halves_share_no_image_and_only_training_labels_are_corrupted():
    labels = jnp.arange(2000) % 10
    clean = Examples(jnp.arange(2000, dtype=jnp.uint8).reshape(-1, 1, 1, 1), labels)
    clean = clean._replace(images=jnp.arange(2000).reshape(-1, 1, 1, 1))
    corrupted = corrupt(jax.random.key(1), clean, 0.4)
    inner, outer = halves(jax.random.key(2), corrupted, clean)
    both = np.concatenate([inner.images.ravel(), outer.images.ravel()])
    np.testing.assert_array_equal(np.sort(both), np.arange(2000))
    np.testing.assert_array_equal(outer.labels, outer.images.ravel() % 10)
    wrong = np.mean(inner.labels != inner.images.ravel() % 10)
    assert abs(wrong - 0.4 * 0.9) < 4 * np.sqrt(0.36 * 0.64 / 1000)


def run(out, **options):
    """The folder and the summary of a smoke run of HyperDistill."""
    standard.main(
        standard.Config(method="hyperdistill", preset="smoke", out=out, seed=(0,), **options)
    )
    folder = out / "hyperdistill-gamma0.9" / "seed-0"
    return folder, json.loads((folder / "summary.json").read_text())


@pytest.fixture
def shared_programs(monkeypatch):
    """What is cut and what goes on are two runs of one setting, and compile it once."""
    stages, made = Setting.stages, {}
    monkeypatch.setattr(standard, "make_setting", functools.cache(standard.make_setting))

    def once(self, method):
        return made.setdefault((id(self), method.label), stages(self, method))

    monkeypatch.setattr(Setting, "stages", once)


def test_a_run_that_is_cut_in_the_second_stage_goes_on_there(
    tmp_path, monkeypatch, shared_programs
):
    train, starts = standard.train, []

    def watched(stream, state, *arguments, folder, **named):
        starts.append((named["label"].split(", ")[-1], folder.restore(state)[0]))
        if len(starts) == 2:
            raise KeyboardInterrupt
        return train(stream, state, *arguments, folder=folder, **named)

    monkeypatch.setattr(standard, "train", watched)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, resume=False)
    with pytest.raises(ValueError, match="has a checkpoint"):
        run(tmp_path, resume=True, side_by_side=True)
    folder, summary = run(tmp_path, resume=True)
    assert starts == [("λ", 0), ("retraining", 0), ("λ", 2), ("retraining", 0)]
    assert summary["products"] == 20 and 0 <= summary["test_accuracy"] <= 1
    curves = json.loads((folder / "weighting.json").read_text())
    assert curves["before"] != curves["after"]
    report = tmp_path / "report"
    assert "HyperDistill (γ=0.9, size 1)" in (report / "README.md").read_text()
    assert {path.stem for path in report.glob("*.svg")} == {"learning", "retraining", "weighting"}
    figures, calls = lanes.figures, []

    def cut(info):  # in the second stage
        calls.append(info)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return figures(info)

    monkeypatch.setattr(lanes, "figures", cut)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "together", side_by_side=True)
    together, same = run(tmp_path / "together", side_by_side=True, resume=True)
    assert len(calls) == 5  # the first stage is not run again
    for name in ("test_accuracy", "first_stage_accuracy", "products", "diverged"):
        assert same[name] == summary[name]
    for name in ("metrics.jsonl", "retrain/metrics.jsonl"):
        one, other = (json_lines(path / name) for path in (folder, together))
        assert [row.keys() for row in one] == [row.keys() for row in other]
        for row, also in zip(one, other):
            np.testing.assert_allclose(row["outer_loss"], also["outer_loss"], rtol=1e-5)


def json_lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]
