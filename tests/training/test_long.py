"""The host's exact reverse mode: equal to the program's, through kills, damage and bad batches."""

import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill import training
from hdistill.training import long, segments, states
from tests.problems import assert_close

STEPS = 11
RNG = np.random.default_rng(0)
INPUTS, TARGETS = RNG.normal(size=(STEPS, 4, 3)), RNG.normal(size=(STEPS, 4))
LAM = jnp.array([-1.0, -2.0, -3.0])


def loss(params, hparams, batch):
    inputs, targets = batch
    fit = jnp.mean((jnp.tanh(inputs @ params) - targets) ** 2)
    return fit + jnp.exp(hparams) @ params**2


def outer_loss(params, hparams, batch):
    return jnp.mean((jnp.tanh(batch[0] @ params) - batch[1]) ** 2) + 0.01 * jnp.sum(hparams**2)


OPTIMIZER = optax.adam(0.05, eps_root=1e-8)
PROBLEM = hd.from_losses(loss, outer_loss, OPTIMIZER)
PARAMS = jnp.array([0.1, 0.2, 0.3])
START = hd.InnerState(PARAMS, OPTIMIZER.init(PARAMS))


def batch_at(t):
    return INPUTS[t], TARGETS[t]


def call(
    folder, *, problem=PROBLEM, hparams=LAM, weights=START, batches=batch_at, outer=None, **how
):
    outer = batch_at(0) if outer is None else outer
    how = {"horizon": STEPS, "return_info": True} | how
    return training.reverse_mode(problem, hparams, weights, batches, outer, folder=folder, **how)


def numbers(result):
    g, info = result
    return g, info.weights, info.outer_loss, info.start


def same(result, other):
    jax.tree.map(np.testing.assert_array_equal, numbers(result), numbers(other))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A call that nothing disturbs."""
    return call(tmp_path_factory.mktemp("whole"), every=2, outer=batch_at, segment=4)


@pytest.mark.parametrize(
    "every, how",
    [
        (None, {}),
        (1, {"segment": 4, "store": "host"}),
        (4, {"segment": 3}),
    ],
)
def test_it_is_the_gradient_of_the_unroll(tmp_path, every, how):
    n = every or STEPS

    def total(hparams, params):
        weights, losses = hd.InnerState(params, START.opt_state), []
        for t in range(STEPS // n * n):
            weights = PROBLEM.update(weights, hparams, batch_at(t))
            if (t + 1) % n == 0:
                batch = batch_at(0 if every is None else t)
                losses.append(outer_loss(weights.params, hparams, batch))
        return sum(losses), jnp.stack(losses)

    (_, losses), exact = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(LAM, PARAMS)
    g, info = call(tmp_path, every=every, outer=None if every is None else batch_at, **how)
    assert_close(g.total, exact[0], 1e-10)
    assert_close(info.start.params, exact[1], 1e-10)
    assert_close(jnp.atleast_1d(info.outer_loss), losses, 1e-12)
    assert_close(info.weights, hd.unroll(PROBLEM, LAM, START, (INPUTS, TARGETS)), 1e-12)
    assert info.finite and info.products == 2 * (STEPS // n * n) - 1
    assert info.steps == STEPS + STEPS // n * n
    with pytest.raises(AssertionError):  # without the response of the weights
        assert_close(g.first_order, exact[0], 1e-3)


def test_queries_are_the_hypergradients_one_by_one(tmp_path):
    queries = INPUTS[:3], TARGETS[:3]
    g, info = call(tmp_path / "all", outer=queries, queries=True, snapshots=2, segment=6)
    assert info.outer_loss.shape == (3,)
    for i in range(3):
        one, of = call(tmp_path / str(i), outer=batch_at(i))
        assert_close(jax.tree.map(lambda x, i=i: x[i], g), one, 1e-12)
        assert_close(info.outer_loss[i], of.outer_loss, 1e-12)
    several, _ = call(tmp_path / "every", outer=lambda t: queries, queries=True, every=3, segment=4)
    for i in range(3):
        one, _ = call(tmp_path / f"every-{i}", outer=lambda t, i=i: batch_at(i), every=3)
        assert_close(jax.tree.map(lambda x, i=i: x[i], several), one, 1e-12)


def test_what_phi_hands_on_is_not_kept_and_keys_are(tmp_path):
    def update(w, rate, batch):
        noise = jax.random.normal(jax.random.fold_in(w["key"], w["t"]), (3,))
        step = rate * (jnp.tanh(w["x"]) - w["body"] + 0.1 * noise + batch)
        return w | {"x": w["x"] - step, "t": w["t"] + 1, "key": jax.random.fold_in(w["key"], 1)}

    problem = hd.Problem(update, lambda w, rate, batch: jnp.sum(w["x"] ** 2))
    weights = {"x": jnp.ones(3), "t": 0, "key": jax.random.key(3), "body": jnp.arange(3.0)}
    data = RNG.normal(size=(STEPS, 3))
    arguments = {"problem": problem, "hparams": jnp.array(0.3), "weights": weights}
    g, info = call(tmp_path, batches=data.__getitem__, outer=jnp.zeros(3), **arguments)
    exact = hd.offline.reverse_mode(*arguments.values(), data, jnp.zeros(3))
    assert_close(g, exact, 1e-12)
    end = hd.unroll(*arguments.values(), data)
    assert_close(info.weights["x"], end["x"], 1e-12)
    assert jnp.all(jax.random.key_data(info.weights["key"]) == jax.random.key_data(end["key"]))
    kept = list((tmp_path / "states").iterdir())
    assert kept and all(b"3], [" not in path.read_bytes().partition(b"\n")[0] for path in kept)


def test_stopped_before_or_after_any_write_it_goes_on_to_the_same_bits(
    tmp_path, monkeypatch, whole
):
    write, writes = states.write_tree, []

    def counted(*arguments):
        write(*arguments)
        writes.append(1)

    monkeypatch.setattr(long, "write_tree", counted)
    call(tmp_path / "count", every=2, outer=batch_at, segment=4)
    for stop in range(len(writes)):
        for late in (False, True):
            folder, seen = tmp_path / f"{stop}-{late}", []

            def cut(path, *more, seen=seen, late=late, stop=stop):
                if late or len(seen) < stop:
                    write(path, *more)
                if len(seen) == stop:
                    raise KeyboardInterrupt
                seen.append(path)

            monkeypatch.setattr(long, "write_tree", cut)
            with pytest.raises(KeyboardInterrupt):
                call(folder, every=2, outer=batch_at, segment=4)
            monkeypatch.setattr(long, "write_tree", write)
            same(call(folder, every=2, outer=batch_at, segment=4), whole)
    same(call(tmp_path / "count", every=2, outer=batch_at, segment=4), whole)  # it has ended


def test_killed_by_the_system_it_goes_on_to_the_same_bits(tmp_path, whole):
    for lines, store in ((1, "disk"), (4, "host")):
        folder = tmp_path / str(lines)
        command = [sys.executable, "-m", "tests.training.test_long", str(folder), store]
        environment = os.environ | {"JAX_ENABLE_X64": "1"}
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
        log = folder / "metrics.jsonl"
        while process.poll() is None and (not log.exists() or log.read_text().count("\n") < lines):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        same(call(folder, every=2, outer=batch_at, segment=4, store=store), whole)


def test_a_damaged_state_is_computed_again(tmp_path, monkeypatch, whole):
    write, seen = states.write_tree, []

    def cut(path, *more):
        write(path, *more)
        seen.append(path)
        if len(seen) == 5:  # on the way back
            raise KeyboardInterrupt

    monkeypatch.setattr(long, "write_tree", cut)
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path / "run", every=2, outer=batch_at, segment=4)
    monkeypatch.setattr(long, "write_tree", write)
    files = sorted((tmp_path / "run" / "states").iterdir())
    assert len(files) >= 3
    for i, file in enumerate(files):
        folder = tmp_path / str(i)
        shutil.copytree(tmp_path / "run", folder)
        content = bytearray((folder / "states" / file.name).read_bytes())
        content[-3] ^= 4
        (folder / "states" / file.name).write_bytes(content)
        same(call(folder, every=2, outer=batch_at, segment=4), whole)


def test_another_call_is_refused_and_says_what_differs(tmp_path):
    call(tmp_path, horizon=3)
    for name, other in {
        "hparams": {"hparams": LAM + 1},
        "weights": {"weights": START._replace(params=PARAMS + 1)},
        "horizon": {"horizon": 4},
        "segment": {"segment": 3},
        "every": {"every": 1, "outer": batch_at},
        "outer_batch": {"outer": batch_at(1)},
        "first_batch": {"batches": lambda t: batch_at(t + 1)},
        "problem": {"problem": hd.from_losses(loss, outer_loss, optax.adam(0.01, eps_root=1e-8))},
    }.items():
        with pytest.raises(training.OtherRun, match=name):
            call(tmp_path, **{"horizon": 3} | other)


def moody():
    """Batches of which the fifth is another one the second time."""
    asked = []

    def batch_at(t):
        asked.append(t)
        return INPUTS[t] + 0.1 * (asked.count(t) > 1 and t == 4), TARGETS[t]

    return batch_at


def raises(t):
    return batch_at(t) if t < 5 else {}["no file"]


@pytest.mark.parametrize(
    "batches, words",
    [
        (moody(), r"batch_at\(4\) gave another batch than the first time"),
        (raises, r"batch_at\(5\) raised KeyError: 'no file'"),
        (
            lambda t: (INPUTS[t][: 4 - (t == 7)], TARGETS[t]),
            r"batch_at\(7\)\[0\] has shape \(3, 3\)",
        ),
        (
            lambda t: (INPUTS[t] * (np.inf if t == 6 else 1), TARGETS[t]),
            "not finite in inner step 7",
        ),
        (lambda: None, "batch_at="),
        ((INPUTS, TARGETS), "batch_at is a tuple: expected a function"),
        (lambda t: "a text", r"batch_at\(0\)"),
    ],
)
def test_bad_batches_are_named(tmp_path, batches, words):
    with pytest.raises(ValueError, match=words):
        call(tmp_path, batches=batches, segment=4)


def test_a_cotangent_that_is_not_finite_names_its_step(tmp_path):
    def update(w, h, d):
        return w + h * jnp.where(d == 4, jnp.sqrt(jnp.where(d == 4, jnp.abs(w - w), 1.0)), w)

    problem = hd.Problem(update, lambda w, h, d: w**2)
    how = {"problem": problem, "hparams": jnp.array(0.1), "weights": jnp.array(1.0)}
    with pytest.raises(training.NonFiniteLoss, match=r"cotangent .* in inner step 5"):
        call(tmp_path, batches=float, outer=0.0, **how)


def test_a_disk_that_is_too_small_is_said_before_and_a_full_one_is_named(
    tmp_path, monkeypatch, whole
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(ValueError, match="the disk has 1e-08 GB free"):
        call(tmp_path / "small", every=2, outer=batch_at, segment=4)
    monkeypatch.undo()

    def full(path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(states, "whole", full)
        with pytest.raises(OSError, match="was not written: No space left"):
            call(tmp_path / "full", every=2, outer=batch_at, segment=4)
    same(call(tmp_path / "full", every=2, outer=batch_at, segment=4), whole)


@pytest.mark.parametrize(
    "how, words",
    [
        ({"horizon": 0}, "horizon"),
        ({"segment": 0}, "segment"),
        ({"store": "tape"}, "store='tape'"),
        ({"snapshots": 1}, "snapshots"),
        ({"every": 12}, "every=12"),
        ({"hparams": jnp.arange(3)}, "hparams"),
        ({"queries": True, "outer": jnp.array(1.0)}, "outer_batch"),
    ],
)
def test_bad_arguments_are_named(tmp_path, how, words):
    with pytest.raises(ValueError, match=words):
        call(tmp_path, **how)


def test_memory_does_not_grow_with_the_horizon():
    def temporaries(horizon):
        (segment, *_) = segments.segments(horizon, horizon, 50)[-1:]
        way = segments.Way(horizon, None, False)
        carry = segments.first_carry(PROBLEM, LAM, START, batch_at(0), None)
        batches = tuple(jnp.zeros((50, *x.shape)) for x in batch_at(0))
        outer = tuple(jnp.asarray(x)[None] for x in batch_at(0))
        given = LAM, START, batches, outer, jnp.int32(segment.first), carry
        program = segments.pull_back(PROBLEM, segment, way)
        return program.lower(*given).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(1_000) == temporaries(1_000_000)


def test_segments_cover_every_step_once_and_are_of_three_lengths():
    for horizon in range(1, 40):
        for every in range(1, horizon + 1):
            for length in (1, 2, 3, 7, 50):
                found = segments.segments(horizon, every, length)
                steps = [t for segment in found for t in segment.numbers]
                assert steps == list(range(horizon))
                assert len({segment.steps for segment in found}) <= 3
                ends = {segment.first + segment.steps for segment in found}
                if every >= length:
                    assert ends >= set(range(every, horizon + 1, every))


def outer(folder, **how):
    with training.RunFolder(folder, {}, resume=True) as opened:
        state = training.outer_run(
            PROBLEM,
            LAM,
            START,
            batch_at,
            batch_at(0),
            hyper_optimizer=optax.adam(0.1),
            total=3,
            folder=opened,
            **({"horizon": STEPS, "segment": 4} | how),
        )
        return state, [row["outer_loss"] for row in opened.rows]


def test_long_learning_is_a_loop_of_exact_hypergradients_also_cut_anywhere(tmp_path, monkeypatch):
    whole, losses = outer(tmp_path / "whole")
    hparams, state = LAM, optax.adam(0.1).init(LAM)
    for found in losses:
        arguments = PROBLEM, hparams, START, (INPUTS, TARGETS), batch_at(0)
        g, info = hd.offline.reverse_mode(*arguments, return_info=True)
        np.testing.assert_allclose(info.outer_loss, found, rtol=1e-12)
        updates, state = optax.adam(0.1).update(g.total, state, hparams)
        hparams = optax.apply_updates(hparams, updates)
    assert_close(whole.hparams, hparams, 1e-10)
    assert len(losses) == 3 and losses[2] < losses[0]
    with pytest.raises(training.OtherRun, match="horizon"):
        outer(tmp_path / "whole", horizon=STEPS - 1)
    with pytest.raises(ValueError, match="folder='a path'"):
        training.outer_run(
            PROBLEM,
            LAM,
            START,
            batch_at,
            batch_at(0),
            hyper_optimizer=optax.sgd(0.1),
            total=1,
            folder="a path",
            horizon=2,
        )
    write = states.write_tree
    for stop in (5, 9):  # back in the first training, forward in the second
        seen = []

        def cut(path, *more, seen=seen, stop=stop):
            write(path, *more)
            seen.append(path)
            if len(seen) == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(long, "write_tree", cut)
        with pytest.raises(KeyboardInterrupt):
            outer(tmp_path / str(stop))
        monkeypatch.setattr(long, "write_tree", write)
        again, rows = outer(tmp_path / str(stop))
        jax.tree.map(np.testing.assert_array_equal, (again, rows), (whole, losses))


if __name__ == "__main__":
    call(sys.argv[1], every=2, outer=batch_at, segment=4, store=sys.argv[2])
