"""The run folder and the loop: damage, another run, files of others, bad losses, signals.

Kills at random moments: test_faults.py.
"""

import json
import os
import pathlib
import pickle
import random
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill import training
from hdistill.training import checkpoints
from hdistill.training.folder import Follower


class State(NamedTuple):
    """A state that counts."""

    done: jax.Array
    hparams: jax.Array
    key: jax.Array


def first_state():
    return State(jnp.int32(0), jnp.ones(3), jax.random.key(0))


def counted(state, tasks):
    """A step of no learner: any NamedTuple, any dict."""
    state = state._replace(done=state.done + 1, hparams=state.hparams * 1.1 + tasks)
    return state, {"loss": state.hparams.sum(), "products": 3, "vector": jnp.ones(2)}


CONFIG = {"rates": (0.1, 0.2), "seed": 0}


def train(path, total=12, step=counted, config=CONFIG, finish=True, **options):
    """(state, rows) of a run."""
    how = {key: options.pop(key) for key in ("resume", "fallback") if key in options}
    with training.RunFolder(path, config, **how) as folder:
        state = training.run(
            step, first_state(), lambda m: m, total=total, folder=folder, save_every=5, **options
        )
        if finish:
            folder.finish({"loss": folder.rows[-1]["loss"]})
        return state, folder.rows


def without_time(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_any_step_is_run_and_leaves_a_verified_run(tmp_path):
    calls = []
    _, rows = train(
        tmp_path,
        validate=lambda m, state: {"half": m / 2},
        callbacks=[
            lambda m, state, info, row: calls.append((m, row["loss"], info["vector"].sum()))
        ],
    )
    assert set(rows[0]) == {"step", "loss", "products", "seconds", "half"}
    assert calls == [(row["step"], row["loss"], 2.0) for row in rows]
    ended = training.read_run(tmp_path)
    assert ended.rows == rows and ended.config["rates"] == [0.1, 0.2]
    assert ended.summary["loss"] == rows[-1]["loss"] and ended.summary["packages"]["jax"]
    with training.RunFolder(tmp_path, CONFIG, resume=True) as folder:
        assert folder.finish({"loss": float("nan")})["loss"] is None
    steps = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert steps == {"10", "12"}


def test_what_goes_on_is_in_the_checkpoint_and_not_in_the_metrics(tmp_path):
    whole, rows = train(tmp_path / "whole")
    train(tmp_path / "cut", total=10, finish=False)
    log = tmp_path / "cut" / "metrics.jsonl"
    for damage in (
        log.unlink,
        lambda: log.write_text("{bad\n" * 3),
        lambda: log.write_bytes(b"\xff"),
    ):
        damage()
        state, again = train(tmp_path / "cut", resume=True, finish=False)
        assert without_time(again) == without_time(rows)
        np.testing.assert_array_equal(state.hparams, whole.hparams)
        assert jax.random.key_data(state.key).tolist() == jax.random.key_data(whole.key).tolist()


def flip(path: pathlib.Path):
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def files_of(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def test_a_flipped_bit_in_a_checkpoint_is_named_and_the_one_before_it_used_if_asked(tmp_path):
    whole, rows = train(tmp_path)
    (tmp_path / "summary.json").unlink()
    last = tmp_path / "checkpoints" / "12"
    flip(random.choice(files_of(last)))
    with pytest.raises(training.DamagedCheckpoint, match=r"checkpoints/12 is damaged.*fallback"):
        train(tmp_path, resume=True)
    state, again = train(tmp_path, resume=True, fallback=True)
    np.testing.assert_array_equal(state.hparams, whole.hparams)
    assert without_time(again) == without_time(rows)


def test_a_file_of_a_checkpoint_that_is_gone_is_damage(tmp_path):
    whole, _ = train(tmp_path, finish=False)
    for file in files_of(tmp_path / "checkpoints" / "12" / "state"):
        file.unlink()
    state, _ = train(tmp_path, fallback=True, finish=False)
    np.testing.assert_array_equal(state.hparams, whole.hparams)


def test_a_checkpoint_without_its_checksum_was_never_finished(tmp_path, capsys):
    whole, _ = train(tmp_path, finish=False)
    (tmp_path / "checkpoints" / "12" / "sha256").unlink()
    state, _ = train(tmp_path, resume=True)
    assert "12 was never finished" in capsys.readouterr().err
    np.testing.assert_array_equal(state.hparams, whole.hparams)


@pytest.mark.parametrize("name", ["summary.json", "config.json", "metrics.jsonl", "extra.json"])
def test_a_run_that_ended_is_verified_when_it_is_read(name, tmp_path):
    with training.RunFolder(tmp_path, CONFIG) as folder:
        training.run(counted, first_state(), lambda m: m, total=2, folder=folder)
        folder.write("extra.json", '{"curve": [1, 2, 3]}')
        folder.finish({"loss": 0.25})
    text = (tmp_path / name).read_text()
    for damaged in (text.replace("1", "2", 1), text[: len(text) // 2], ""):
        assert damaged != text
        (tmp_path / name).write_text(damaged)
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            training.read_run(tmp_path)
    (tmp_path / name).write_text(text)
    training.read_run(tmp_path)


def test_one_run_in_a_folder_at_a_time(tmp_path):
    first = training.RunFolder(tmp_path, CONFIG)
    with pytest.raises(training.OtherRun, match=f"process {os.getpid()} runs there"):
        training.RunFolder(tmp_path, CONFIG, resume=True)
    first.close()
    training.RunFolder(tmp_path, CONFIG, resume=True).close()


@pytest.mark.parametrize("resume", [True, False])
def test_another_configuration_is_refused_and_named(resume, tmp_path):
    train(tmp_path)
    other = {"rates": (0.1, 0.3), "horizon": 4, "seed": 0}
    match = r"horizon=nothing there, 4 now; rates=\[0.1, 0.2\] there, \[0.1, 0.3\] now"
    with pytest.raises(training.OtherRun, match=match):
        train(tmp_path, config=other, resume=resume)
    assert training.read_run(tmp_path).config["rates"] == [0.1, 0.2]


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    train(tmp_path, finish=False)
    (tmp_path / "config.json").unlink()
    with pytest.raises(training.OtherRun, match="seed=0 there, 1 now"):
        train(tmp_path, config=CONFIG | {"seed": 1}, resume=True)


@pytest.mark.parametrize("name", ["config.json", "summary.json", "checkpoints", "run.lock"])
def test_what_no_run_made_is_never_touched(name, tmp_path):
    path = tmp_path / name
    if name == "checkpoints":
        path.mkdir()
        path /= "mine"
    path.write_text('{"mine": 1}')
    for resume in (False, True):
        with pytest.raises(ValueError, match=f"({name}.*not made by|another configuration)"):
            train(tmp_path, resume=resume)
    assert path.read_text() == '{"mine": 1}'


def test_a_run_that_starts_afresh_deletes_only_what_a_run_made(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    train(tmp_path, total=7)
    (tmp_path / "later.txt").write_text("mine too")
    _, rows = train(tmp_path, total=3)
    assert len(rows) == len(training.read_run(tmp_path).rows) == 3
    assert (tmp_path / "notes.txt").read_text() + (
        tmp_path / "later.txt"
    ).read_text() == "minemine too"


def test_a_record_that_is_gone_is_made_again(tmp_path):
    whole, _ = train(tmp_path, finish=False)
    (tmp_path / "made.json").unlink()
    state, _ = train(tmp_path, resume=True)
    np.testing.assert_array_equal(state.hparams, whole.hparams)


def test_an_owned_folder_is_of_one_owner(tmp_path):
    training.OwnedFolder(tmp_path, "study one").claim("table.md").write_text("")
    with pytest.raises(ValueError, match="the folder of study one: expected another for study two"):
        training.OwnedFolder(tmp_path, "study two")


def info_of(outer_loss):
    """Builds the info of an inner optimisation with those losses."""
    ones, every = np.ones_like(outer_loss), np.ones_like(outer_loss, bool)
    return hd.LearnerInfo(
        tasks_finite=jnp.array([True]),
        outer_loss=outer_loss,
        theta=np.ones(()),
        fit=np.int8(hd.FitStatus.NONE),
        moved=every,
        finite=every,
        first_order_norm=ones,
        second_order_norm=ones,
        products=np.array(2),
        hparams=None,
    )


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    def step(state, tasks):
        """The loss is infinite at inner step 3 of step 7."""
        loss = np.ones(5)
        if tasks == 7:
            loss[2] = np.inf
        return state._replace(done=state.done + 1), info_of(loss)

    match = "loss is inf at inner step 3 of stretch 7.*last good checkpoint: that of stretch 5"
    with pytest.raises(training.NonFiniteLoss, match=match) as error:
        train(tmp_path, step=step, unit="stretch")
    assert error.value.checkpoint == 5 and isinstance(error.value, ValueError)
    with training.RunFolder(tmp_path, CONFIG, resume=True) as folder:
        done, state = folder.restore(first_state())
        assert done == state.done == len(folder.rows) == 5


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    def step(state, tasks):
        """λ is infinite after step 4, at finite losses."""
        bad = jnp.full_like(state.hparams, jnp.inf if tasks == 4 else 1.0)
        return state._replace(done=state.done + 1, hparams=bad), info_of(np.ones(5))

    with pytest.raises(training.NonFiniteLoss, match=r"state.hparams is not finite in step 5"):
        train(tmp_path, step=lambda s, t: step(s, min(t, 4)))
    with training.RunFolder(tmp_path, CONFIG, resume=True) as folder:
        assert folder.restore(first_state())[0] == 1


def test_a_signal_ends_the_step_saves_it_and_a_resumed_run_has_the_same_bits(tmp_path):
    whole, rows = train(tmp_path / "whole")

    def interrupted(state, tasks):
        if tasks == 8:
            signal.raise_signal(signal.SIGTERM)
        return counted(state, tasks)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(training.Stopped, match="SIGTERM: stopped after step 8, checkpointed in"):
        train(tmp_path / "cut", step=interrupted)
    assert signal.getsignal(signal.SIGTERM) == before
    state, again = train(tmp_path / "cut", resume=True)
    np.testing.assert_array_equal(state.hparams, whole.hparams)
    assert without_time(again) == without_time(rows)


def test_a_full_disk_is_reported_and_the_run_goes_on_later(tmp_path, monkeypatch):
    whole, _ = train(tmp_path / "whole")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("hdistill.training.checkpoints.write_whole", full)
        with pytest.raises(OSError, match="No space left"):
            train(tmp_path / "cut")
    state, _ = train(tmp_path / "cut", resume=True)
    np.testing.assert_array_equal(state.hparams, whole.hparams)


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"total": 0}, "total=0"),
        ({"save_every": 1.5}, "save_every=1.5"),
        ({"folder": "runs/mine"}, "folder='runs/mine'.*RunFolder"),
        ({"tasks_at": 3}, r"tasks_at=3.*\(m\)"),
        ({"step": 3}, r"step=3.*\(state, tasks\)"),
        ({"step": lambda state, tasks: state}, r"step returned a State.*\(state, info\)"),
        ({"step": lambda state, tasks: (state, None)}, "info is a NoneType"),
        ({"state": {"x": 1.0}}, r"state\['x'\]=1.0: expected an array"),
        ({"validate": lambda m, state: None}, "validate returned None: expected a dict"),
        ({"validate": lambda m, state: {"f": len}}, r"row\['f'\] is a builtin_function"),
    ],
)
def test_bad_arguments_are_named(changed, words, tmp_path):
    with training.RunFolder(tmp_path, CONFIG) as folder:
        given = {"step": counted, "state": first_state(), "tasks_at": lambda m: m}
        given |= {"total": 2, "folder": folder} | changed
        with pytest.raises(ValueError, match=words):
            training.run(given.pop("step"), given.pop("state"), given.pop("tasks_at"), **given)


def test_fewer_steps_than_were_done_are_refused(tmp_path):
    train(tmp_path, total=5, finish=False)
    with pytest.raises(ValueError, match="total=3: expected at least 5, the steps already done"):
        train(tmp_path, total=3, resume=True)


def test_a_signal_in_the_last_step_is_not_lost(tmp_path):
    def interrupted(state, tasks):
        if tasks == 12:
            signal.raise_signal(signal.SIGINT)
        return counted(state, tasks)

    with pytest.raises(training.Stopped, match="SIGINT: stopped after step 12"):
        train(tmp_path, step=interrupted)
    state, _ = train(tmp_path, resume=True)
    assert state.done == 12


def test_fallback_goes_on_and_never_begins_again_by_itself(tmp_path, capsys):
    whole, _ = train(tmp_path / "whole")
    train(tmp_path / "cut", finish=False)
    flip(files_of(tmp_path / "cut" / "checkpoints" / "12")[0])
    state, _ = train(tmp_path / "cut", fallback=True)  # without resume
    np.testing.assert_array_equal(state.hparams, whole.hparams)
    assert "goes on after step 10" in capsys.readouterr().err
    (tmp_path / "cut" / "summary.json").unlink()
    for step in (10, 12):
        flip(files_of(tmp_path / "cut" / "checkpoints" / str(step))[0])
    with pytest.raises(training.DamagedCheckpoint, match="every checkpoint is damaged"):
        train(tmp_path / "cut", fallback=True)
    assert {p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()} >= {"10", "12"}


def test_figures_may_be_arrays_and_what_is_not_finite_is_null(tmp_path):
    def validate(m, state):
        return {"mean": jnp.float32(m), "bad": np.float32("nan"), "list": [1.0, np.inf]}

    _, rows = train(tmp_path, validate=validate, finish=False)
    assert rows[-1]["mean"] == 12.0 and rows[-1]["bad"] is None and rows[-1]["list"] == [1.0, None]
    with training.RunFolder(tmp_path, CONFIG, resume=True) as folder:
        assert folder.restore(first_state())[0] == 12 and folder.rows == rows
        assert folder.finish({"loss": jnp.float32(2)})["loss"] == 2.0
        with pytest.raises(ValueError, match=r"figures=\['checksum', 'commit'\]"):
            folder.finish({"checksum": 1, "commit": 2})
        for name in ("../x", "/tmp/x", "sub/x", "config.json", "made.json"):
            with pytest.raises(ValueError, match=f"name='{name}'"):
                folder.write(name, "{}")


def test_what_was_written_is_read_again_verified(tmp_path):
    with training.RunFolder(tmp_path, CONFIG) as folder:
        assert folder.read("a.csv") is None
        folder.write("a.csv", "1,2")
    with training.RunFolder(tmp_path, CONFIG, resume=True) as folder:
        assert folder.read("a.csv") == "1,2"
        (tmp_path / "a.csv").write_text("1,3")
        with pytest.raises(ValueError, match=r"a\.csv is damaged"):
            folder.read("a.csv")
        with pytest.raises(ValueError, match=r"a\.csv is damaged"):
            folder.finish({})


def test_a_state_of_another_shape_or_dtype_is_not_resumed(tmp_path):
    train(tmp_path, finish=False)
    for leaf, words in ((jnp.ones(4), r"float64\[4\]"), (jnp.ones(3, "float32"), r"float32\[3\]")):
        with (
            training.RunFolder(tmp_path, CONFIG, resume=True) as folder,
            pytest.raises(ValueError, match=rf"state.hparams is {words}: expected float64\[3\]"),
        ):
            folder.restore(first_state()._replace(hparams=leaf))


def test_files_of_others_stay_and_a_refused_folder_gets_none_of_ours(tmp_path):
    train(tmp_path / "run", finish=False)
    (tmp_path / "run" / "checkpoints" / "2024").mkdir()
    for how in ({"resume": True}, {}):
        with pytest.raises(ValueError, match="2024 was not made by a run"):
            train(tmp_path / "run", **how)
    assert (tmp_path / "run" / "checkpoints" / "2024").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json was not made by"):
        train(other)
    assert [path.name for path in other.iterdir()] == ["config.json"]
    for content in ("[]", '{"a": 1}', '{"owner": "a run", "made": null}'):
        (other / "made.json").write_text(content)
        with pytest.raises(ValueError, match=r"made\.json"):
            train(other)


@pytest.mark.parametrize("config", [None, {"commit": "x"}, {"a": jnp.ones(2)}])
def test_a_configuration_that_no_file_holds(config, tmp_path):
    with pytest.raises(ValueError, match="config="):
        training.RunFolder(tmp_path, config)


@pytest.mark.parametrize("name", ["../outside.txt", ".", "", "..", "sub/x"])
def test_a_record_of_names_outside_the_folder_deletes_nothing(name, tmp_path):
    train(tmp_path / "run")
    (tmp_path / "outside.txt").write_text("mine")
    record = {"owner": "a run", "made": [name], "checksums": {}}
    (tmp_path / "run" / "made.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"made\.json was not made by us, or is damaged"):
        train(tmp_path / "run")
    assert (tmp_path / "outside.txt").exists() and (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("content", ["null", "[]", "3", "{", '{"seed": 1}', '{"gommit": null}'])
def test_a_configuration_that_is_damaged_is_named_and_can_be_deleted(content, tmp_path):
    whole, _ = train(tmp_path, finish=False)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged.*delete it and resume"):
        train(tmp_path, resume=True)
    (tmp_path / "config.json").unlink()
    state, _ = train(tmp_path, resume=True)
    np.testing.assert_array_equal(state.hparams, whole.hparams)


def test_a_refused_configuration_leaves_the_folder_to_its_own(tmp_path):
    whole, _ = train(tmp_path, finish=False)
    (tmp_path / "config.json").unlink()
    with pytest.raises(training.OtherRun, match="seed=0 there, 1 now"):
        train(tmp_path, config=CONFIG | {"seed": 1}, resume=True)
    state, _ = train(tmp_path, resume=True)
    np.testing.assert_array_equal(state.hparams, whole.hparams)


def test_a_damaged_checksum_is_a_damaged_checkpoint(tmp_path):
    whole, _ = train(tmp_path, finish=False)
    (tmp_path / "checkpoints" / "12" / "sha256").write_bytes(b"\xb4" * 64)
    with pytest.raises(training.DamagedCheckpoint, match="12 is damaged"):
        train(tmp_path, resume=True)
    state, _ = train(tmp_path, fallback=True)
    np.testing.assert_array_equal(state.hparams, whole.hparams)


def test_a_checkpoint_that_was_renamed_or_copied_is_named(tmp_path):
    train(tmp_path, finish=False)
    for change in (shutil.copytree, pathlib.Path.rename):
        change(tmp_path / "checkpoints" / "12", tmp_path / "checkpoints" / "400")
        for how in ({}, {"resume": True}, {"fallback": True}):
            with pytest.raises(ValueError, match="400 is checkpoint 12, renamed or copied"):
                train(tmp_path, **how)
        (tmp_path / "checkpoints" / "400").rename(tmp_path / f"aside-{change.__name__}")


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_what_others_put_into_a_checkpoint_stays_though_its_list_is_damaged(damage, tmp_path):
    train(tmp_path, finish=False)
    last = tmp_path / "checkpoints" / "12"
    (last / "mine.txt").write_text("mine")
    (last / "sha256").unlink() if damage == "gone" else flip(last / "sha256")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"12/mine.txt was not made by.*12, no longer"):
            train(tmp_path, fallback=True, finish=False)
    last.rename(tmp_path / "aside")
    train(tmp_path, fallback=True)
    assert training.read_run(tmp_path).rows[-1]["step"] == 12
    assert {path.name for path in last.iterdir()} > {"state", "record", "sha256"}


def test_what_others_put_into_a_checkpoint_stays_and_is_named(tmp_path):
    def put_there(m, state, info, row):
        if m == 6:
            (tmp_path / "checkpoints" / "5" / "mine.txt").write_text("mine")

    with training.RunFolder(tmp_path, CONFIG) as folder:
        training.run(
            counted,
            first_state(),
            lambda m: m,
            total=12,
            folder=folder,
            save_every=5,
            callbacks=[put_there],
        )
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "12", "5"]
    mine = tmp_path / "checkpoints" / "5" / "mine.txt"
    assert [path for path in (tmp_path / "checkpoints" / "5").iterdir() if path.is_file()] == [mine]
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"checkpoints/5/mine.txt was not made by a run.*move"):
            training.RunFolder(tmp_path, CONFIG, resume=resume)
    mine.rename(tmp_path / "checkpoints" / "10" / "mine.txt")
    (tmp_path / "checkpoints" / "5").rename(tmp_path / "aside")
    with pytest.raises(ValueError, match=r"checkpoints/10/mine.txt was not made by a run.*move it"):
        training.RunFolder(tmp_path, CONFIG)


def test_a_user_s_partial_file_stays(tmp_path):
    (tmp_path / "config.json.partial").write_text("mine")
    training.RunFolder(tmp_path, CONFIG).close()
    assert (tmp_path / "config.json.partial").read_text() == "mine"


def test_the_commit_a_run_was_begun_at_outlives_its_configuration(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hdistill.training.folder.commit", lambda: "aaa")
    train(tmp_path, finish=False)
    (tmp_path / "config.json").unlink()
    monkeypatch.setattr("hdistill.training.folder.commit", lambda: "bbb")
    training.RunFolder(tmp_path, CONFIG, resume=True).close()
    assert json.loads((tmp_path / "config.json").read_text())["commit"] == "aaa"
    assert "begun at commit aaa, this is bbb" in capsys.readouterr().err


def test_what_others_put_into_a_run_within_a_run_stays(tmp_path):
    for _ in range(2):
        with training.RunFolder(tmp_path, CONFIG) as folder:
            inner = training.RunFolder(folder.claim("again"), {"seed": 1})
            inner.finish({"loss": 1.0})
            inner.close()
            (tmp_path / "again" / "mine.txt").write_text("mine")
    training.RunFolder(tmp_path, CONFIG).close()
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["mine.txt"]


def test_a_record_that_is_damaged_is_named(tmp_path):
    train(tmp_path)
    record = (tmp_path / "made.json").read_text()
    (tmp_path / "made.json").write_text(record.replace("a run", "a!run"))
    with pytest.raises(ValueError, match=r"made\.json was not made by us, or is damaged.*delete"):
        train(tmp_path, resume=True)


def test_a_file_of_the_run_s_whose_record_is_gone_is_not_measured_again(tmp_path):
    with training.RunFolder(tmp_path, CONFIG) as folder:
        folder.write("a.csv", "1,2")
    (tmp_path / "made.json").unlink()
    refused = pytest.raises(ValueError, match=r"a\.csv was not made by")
    with training.RunFolder(tmp_path, CONFIG, resume=True) as folder, refused:
        folder.read("a.csv")


def test_odd_steps_and_figures_are_named_at_once(tmp_path):
    def grows(state, tasks):
        return state._replace(hparams=jnp.ones(4)), {"loss": 1.0}

    for i, (options, words) in enumerate(
        [
            ({"step": grows}, r"step's state.hparams has shape \(4,\)"),
            ({"step": lambda s, t: (s, {"loss": "a"})}, r"loss is \['a'\]: expected numbers"),
            ({"validate": lambda m, s: {"step": 3, "loss": 1}}, r"\['loss', 'step'\].*other names"),
        ]
    ):
        with pytest.raises(ValueError, match=words):
            train(tmp_path / str(i), **options)
    refused = pytest.raises(ValueError, match=r"state=\{\}: expected at least one array")
    with refused, training.RunFolder(tmp_path / "x", CONFIG) as folder:
        training.run(counted, {}, lambda m: m, total=1, folder=folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file: expected a folder"):
        training.RunFolder(tmp_path / "file", CONFIG)


def test_the_loss_of_an_offline_method_is_counted_by_itself(tmp_path):
    def step(state, tasks):
        info = info_of(np.array([1.0, np.nan]))
        return state, info._replace(moved=np.ones(1, bool))

    with pytest.raises(training.NonFiniteLoss, match="outer loss 2 of 2 is nan in step 1"):
        train(tmp_path, step=step)


def test_more_leaves_than_their_digits_count_come_back_each_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "DIGITS", 1)  # with 4, 10,001 leaves take half a minute
    state = [np.full(1, i, np.float32) for i in range(101)]
    with training.RunFolder(tmp_path, {}) as folder:
        folder.save(1, state)
    with training.RunFolder(tmp_path, {}, resume=True) as folder:
        _, back = folder.restore([np.zeros(1, np.float32)] * len(state))
    np.testing.assert_array_equal(np.concatenate(back), np.arange(101))


def test_empty_leaves_and_scalars_of_numpy_come_back(tmp_path):
    state = {"empty": jnp.zeros((0, 3)), "scalar": np.float32(3), "array": jnp.arange(2)}
    with training.RunFolder(tmp_path, {}) as folder:
        folder.save(1, state)
    zero = jax.tree.map(lambda x: x * 0, state)
    with training.RunFolder(tmp_path, {}, resume=True) as folder:
        _, back = folder.restore(zero)
    assert back["empty"].shape == (0, 3) and back["array"].tolist() == [0, 1]
    assert type(back["scalar"]) is np.float32 and back["scalar"] == 3
    assert not back["array"].committed  # or a compiled step would compile once more


KILLED_DELETION = """
import os, signal, sys
import jax.numpy as jnp
from hdistill import training
unlink, left = os.unlink, int(sys.argv[2])
def killing(path, *, dir_fd=None, **more):
    global left
    if "checkpoints" in str(path):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
    return unlink(path, dir_fd=dir_fd)
with training.RunFolder(sys.argv[1], {}) as folder:
    folder.save(1, jnp.ones(1)), folder.save(2, jnp.ones(1))
    os.unlink = killing
    folder.save(3, jnp.ones(1))
"""


def test_a_kill_while_a_checkpoint_is_deleted_does_not_block(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED_DELETION, tmp_path, "1"], timeout=120)
    assert (tmp_path / "checkpoints" / "1").exists()
    with training.RunFolder(tmp_path, {}, resume=True) as folder:
        assert folder.restore(jnp.ones(1, jnp.float32))[0] == 3
        folder.save(4, jnp.ones(1))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]


def test_a_forged_list_of_files_deletes_nothing_outside(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    with training.RunFolder(tmp_path / "run", {}) as folder:
        folder.save(1, jnp.ones(1)), folder.save(2, jnp.ones(1))
        old = folder.path / "checkpoints" / "1" / checkpoints.CHECKSUMS
        text = old.read_text().partition("\n")[2] + f"{'0' * 64}  ../../../precious\n"
        old.write_text(f"{checkpoints._head('1', text)}\n{text}")
        folder.save(3, jnp.ones(1))
    assert precious.read_text() == "precious"


def test_a_failure_to_write_says_what_failed(tmp_path, monkeypatch):
    with training.RunFolder(tmp_path, {}) as folder:
        manager = folder._checkpoints._manager

        def fail(*args, **more):
            raise TypeError("a leaf that no file holds")

        monkeypatch.setattr(manager, "save", fail)
        with pytest.raises(OSError, match=r"not written, TypeError.*a leaf that no file") as error:
            folder.save(1, jnp.ones(1))
    assert "disk" not in str(error.value)


def test_callbacks_that_are_given_once_are_called_at_every_step(tmp_path):
    seen = []
    with training.RunFolder(tmp_path, {}) as folder:
        callbacks = (lambda m, state, info, row: seen.append(m) for _ in range(1))
        training.run(
            lambda s, _: (s, {"loss": 0.0}),
            jnp.ones(1),
            lambda m: None,
            total=3,
            folder=folder,
            callbacks=callbacks,
        )
    assert seen == [1, 2, 3]


def test_texts_come_back_as_they_were(tmp_path):
    text = "λ\r\nα\n"
    with training.RunFolder(tmp_path, {"λ": "α"}) as folder:
        folder.write("a.txt", text)
        assert folder.read("a.txt") == text
    code = (
        "from hdistill import training; import sys; training.RunFolder(sys.argv[1], {'\\u03bb': 1})"
    )
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, tmp_path / "b"], check=True, env=ascii_only)


def test_a_lock_that_a_child_still_holds_is_not_the_dead_parent_s(tmp_path):
    code = (
        "import os, sys, time; from hdistill import training\n"
        "training.RunFolder(sys.argv[1], {})\n"
        "folder = training.RunFolder(sys.argv[1] + '/run', {})\n"
        "time.sleep(60) if os.fork() == 0 else os._exit(0)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], start_new_session=True, stderr=subprocess.DEVNULL
    )
    child.wait(timeout=60)
    try:
        with pytest.raises(training.OtherRun, match=f"process {child.pid} has ended, but one"):
            training.RunFolder(tmp_path / "run", {})
    finally:
        os.killpg(child.pid, signal.SIGKILL)


def test_infinite_entries_that_a_state_began_with_are_no_divergence(tmp_path):
    state = {"weights": jnp.array([0.0, -jnp.inf])}
    with training.RunFolder(tmp_path, {}) as folder:
        end = training.run(
            lambda s, _: (s, {"loss": 0.0}), state, lambda m: None, total=1, folder=folder
        )
    assert end["weights"].tolist() == [0.0, -np.inf]


def test_every_process_may_claim_a_file(tmp_path):
    assert Follower(tmp_path, {}).claim("x.png") == tmp_path / "x.png"
    with Follower(tmp_path, {}) as folder:
        assert folder.summary is None


def test_a_state_goes_through_pickle(tmp_path):
    """The signature inside it equals a fresh one, which a JAX tree definition does not."""
    problem = hd.Problem(lambda w, h, d: w, lambda w, h, d: jnp.sum(w["a"] * h))
    learner = hd.learner(
        problem, hd.online.first_order(problem), hyper_optimizer=optax.sgd(0.1), horizon=1
    )
    state = learner.init(jax.random.key(0), jnp.ones(2), {"a": jnp.ones(2)})
    signature = pickle.loads(pickle.dumps(state.signature))
    assert signature == state.signature and hash(signature) == hash(state.signature)
