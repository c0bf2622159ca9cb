"""Second-order MAML beside first-order MAML and Reptile, on sinusoids of ten points.

    python -m experiments.recipes.few_shot_sinusoids

λ is the log of a learning rate for each layer of the network (Meta-SGD, layer by layer), φ the
start that all tasks share. What to take from here: `hd.maml`, the exact gradient of φ from the same
pass that gives λ its hypergradient, `every=1` for the losses after each inner step (MAML++), and
`hd.evaluate` on new tasks.

References:
  Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017;
  Antoniou et al., "How to train your MAML", ICLR 2019.
"""

import jax
import jax.numpy as jnp
import optax

import hdistill as hd

WIDTH, POINTS, INNER_STEPS, META_BATCH, META_STEPS = 40, 10, 5, 25, 1500
# Clipped: one task's gradient through five steps can be many times another's.
ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.003))
RULES = {
    "MAML": lambda: hd.maml(ADAM),
    "first-order MAML": lambda: hd.fomaml(ADAM),
    "Reptile": lambda: hd.reptile(1.0),
}


def init(key):
    """A network of two hidden layers: a list of (matrix, bias)."""
    sizes = (1, WIDTH, WIDTH, 1)
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [(jax.random.normal(k, (m, n)) / m**0.5, jnp.zeros(n)) for k, m, n in shapes]


def loss(params, batch):
    x, y = batch
    for i, (matrix, bias) in enumerate(params):
        x = x @ matrix + bias[None]
        x = x if i == len(params) - 1 else jnp.tanh(x)
    return jnp.mean((x - y) ** 2)


def update(params, log_rates, batch):
    """Φ: gradient descent with a rate for each layer."""
    gradient = jax.grad(loss)(params, batch)
    layers = zip(params, gradient, jnp.exp(log_rates), strict=True)
    return [jax.tree.map(lambda p, g, r=rate: p - r * g, w, dw) for w, dw, rate in layers]


PROBLEM = hd.Problem(update, lambda params, hparams, batch: loss(params, batch))


def sample_tasks(key, tasks=META_BATCH):
    """(points to fit, points to test on) of sinusoids, each leaf [tasks, POINTS, 1]."""
    amplitude_key, phase_key, x_key = jax.random.split(key, 3)
    amplitude = jax.random.uniform(amplitude_key, (1, tasks, 1, 1), minval=0.1, maxval=5.0)
    phase = jax.random.uniform(phase_key, (1, tasks, 1, 1), maxval=jnp.pi)
    x = jax.random.uniform(x_key, (2, tasks, POINTS, 1), minval=-5.0, maxval=5.0)
    return tuple(zip(x, amplitude * jnp.sin(x - phase), strict=True))


def learn(name, seed, meta_steps=META_STEPS):
    """Meta-learns φ by a rule, and the rates; returns (log rates, φ)."""
    learner = hd.learner(
        PROBLEM,
        hd.offline.reverse_mode,
        hyper_optimizer=optax.adam(0.001),
        initialization=RULES[name](),
        horizon=INNER_STEPS,
    )
    key = jax.random.key(seed)
    state = learner.init(key, jnp.full(3, jnp.log(0.01)), init(jax.random.fold_in(key, META_STEPS)))
    sample = jax.jit(sample_tasks)
    for m in range(meta_steps):
        state, _ = learner.step(state, sample(jax.random.fold_in(key, m)))
    return state.hparams, state.weights


def test_error(hparams, weights):
    """The mean loss on 1,000 new tasks after INNER_STEPS steps."""
    tasks = sample_tasks(jax.random.key(10_000), 1000)
    return float(hd.evaluate(PROBLEM, hparams, weights, tasks, horizon=INNER_STEPS).mean())


def main(seeds=range(5)):
    for name in RULES:
        errors = jnp.array([test_error(*learn(name, seed)) for seed in seeds])
        print(f"{name}: error {errors.mean():.3f} ± {errors.std(ddof=1):.3f}, {len(errors)} seeds")


if __name__ == "__main__":
    main()
