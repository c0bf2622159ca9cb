"""Memory against the horizon, by the compiled program's own analysis of its temporaries."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import hdistill as hd

SIZE = 4000


def problem_and_arguments():
    def loss(w, h, d):
        return jnp.mean((jnp.tanh(w * h["scale"]) - d.mean(0)) ** 2)

    optimizer = optax.sgd(0.1, momentum=0.9)
    params = jnp.ones(SIZE)
    problem = hd.from_losses(loss, loss, optimizer)
    return problem, {"scale": jnp.ones(())}, hd.InnerState(params, optimizer.init(params))


def draw(key, t):
    return jax.random.normal(jax.random.fold_in(key, t), (4, SIZE))


def temporaries(function, *arguments) -> int:
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def offline(method, horizon, every=None):
    problem, hparams, weights = problem_and_arguments()

    def call(hparams, weights, key):
        batch_at, options = functools.partial(draw, key), {"horizon": horizon}
        outer_batch = draw(key, horizon)
        if every is not None:
            outer_batch, options["every"] = lambda t: draw(key, horizon + t), every
        return method(problem, hparams, weights, batch_at, outer_batch, **options)

    return temporaries(call, hparams, weights, jax.random.key(0))


def online(estimator, horizon):
    problem, hparams, weights = problem_and_arguments()
    built = hd.learner(
        problem,
        estimator(problem),
        hyper_optimizer=optax.sgd(0.1),
        horizon=horizon,
        sample_inner=lambda key, task: jax.random.normal(key, (4, SIZE)),
        sample_outer=lambda key, task: jax.random.normal(key, (4, SIZE)),
    )
    state = built.init(jax.random.key(0), hparams, weights)
    return temporaries(built.pure_step, state, jnp.zeros((2, 1)))


def fit(problem, *arguments, **options):
    return hd.fit_size(problem, *arguments, jax.random.key(1), gamma=0.9, **options)


@pytest.mark.parametrize(
    "measure, method",
    [
        (online, hd.online.one_step),
        (online, hd.online.implicit),
        (online, hd.online.greedy),
        (online, hd.online.forward_mode),
        (online, functools.partial(hd.online.hyperdistill, gamma=0.9)),
        (online, hd.online.robust_hyperdistill),
        (offline, hd.offline.drmad),
        (offline, fit),
    ],
    ids=[
        "one-step",
        "implicit",
        "greedy",
        "forward",
        "hyperdistill",
        "robust",
        "drmad",
        "fit_size",
    ],
)
def test_constant(measure, method):
    short, long = measure(method, 50), measure(method, 800)
    assert short > SIZE * 8
    assert abs(long / short - 1) < 0.05, (short, long)


def test_reverse_mode_is_linear_and_root_with_checkpoints():
    def grown(method):
        short, long = offline(method, 50), offline(method, 800)
        return long / short, long / (SIZE * 8)  # the second in copies of the parameters

    ratio, copies = grown(hd.offline.reverse_mode)  # 800 / 50 = 16, with a constant beside it
    assert 12 < ratio <= 16
    assert 800 <= copies < 830  # SGD's way back needs no momentum, and XLA keeps none
    ratio, copies = grown(functools.partial(hd.offline.reverse_mode, checkpoint=True))  # 16 ** 0.5
    assert 2.5 < ratio < 4.5
    assert copies < 2 * (2 * 800**0.5) + 10  # 2√T states, each of parameters and momentum
    ratio, _ = grown(functools.partial(hd.offline.reverse_mode, window=20))
    assert abs(ratio - 1) < 0.05


def test_every_loss_in_one_pass():
    """In copies of the parameters: what grows is what the docstrings say, and nothing else."""

    def copies(method, horizon, every):
        return offline(method, horizon, every) / (SIZE * 8)

    def drmad(anchors):
        return functools.partial(hd.offline.drmad, anchors=anchors)

    once = {anchors: copies(drmad(anchors), 50, None) for anchors in (1, 10)}
    # k weights (of SGD's way back only the parameters), and a cotangent for each loss but the
    # last, whatever T is.
    assert 8 < once[10] - once[1] < 10.5
    assert abs(copies(drmad(1), 800, 160) - once[1] - 4) < 1
    assert abs(copies(drmad(10), 800, 10) - once[10] - 79) < 2
    assert abs(copies(drmad(10), 800, None) - once[10]) < 1
    checkpointed = functools.partial(hd.offline.reverse_mode, checkpoint=True)
    assert 800 <= copies(hd.offline.reverse_mode, 800, 10) < 830
    assert copies(checkpointed, 800, 10) < 2 * (2 * 800**0.5) + 10
