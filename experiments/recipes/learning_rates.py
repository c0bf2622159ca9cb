"""A learning rate for each parameter, meta-learned over tasks (as Meta-SGD), exactly.

    python -m experiments.recipes.learning_rates

Tasks are linear regressions whose features differ in scale a hundredfold: no one rate suits them
all. λ is the log of a factor on each entry of the optimizer's update. What to take from here: a
your own Φ around your optax optimizer, `hd.learner`, and `every=n`: λ moves once in an inner
optimisation, by the exact hypergradient of the sum of the outer losses after every n-th step.

L_val doesn't see λ, so that g^FO = 0 and all there is to learn from is the second-order term.

References:
  Li et al., "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017.
"""

import jax
import jax.numpy as jnp
import optax

import hdistill as hd

SCALES = jnp.geomspace(0.1, 10.0, 8)  # of the features
POINTS, INNER_STEPS, META_BATCH = 32, 15, 8


def loss(params, batch):
    x, y = batch
    return jnp.mean((x @ params - y) ** 2)


def make_problem(optimizer):
    """Φ: one step of `optimizer`, each entry of its update multiplied by exp(λ)."""

    def update(weights, hparams, batch):
        gradient = jax.grad(loss)(weights.params, batch)
        updates, opt_state = optimizer.update(gradient, weights.opt_state, weights.params)
        updates = jax.tree.map(lambda u, log_factor: jnp.exp(log_factor) * u, updates, hparams)
        return hd.InnerState(optax.apply_updates(weights.params, updates), opt_state)

    return hd.Problem(update, lambda weights, hparams, batch: loss(weights.params, batch))


def sample_tasks(key):
    """(points to fit, points to test on) of META_BATCH functions, each leaf [META_BATCH, ...]."""
    x_key, truth_key = jax.random.split(key)
    x = SCALES[None, None, None] * jax.random.normal(x_key, (2, META_BATCH, POINTS, SCALES.size))
    truth = jax.random.normal(truth_key, (META_BATCH, SCALES.size)) / SCALES[None]
    y = jnp.einsum("htpf,tf->htp", x, truth)
    return tuple(zip(x, y, strict=True))


def learn(key, optimizer, meta_steps=150):
    """Meta-learns λ; (λ, outer losses [meta_steps] at the end of each inner optimisation)."""
    problem = make_problem(optimizer)
    params = jnp.zeros(SCALES.size)
    learner = hd.learner(
        problem,
        hd.offline.reverse_mode,
        # Clipped: one task's hypergradient can be thousands of times another's.
        hyper_optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.05)),
        horizon=INNER_STEPS,
        every=3,
    )
    weights = hd.InnerState(params, optimizer.init(params))
    state = learner.init(key, jnp.zeros(SCALES.size), weights)
    losses = []
    for m in range(meta_steps):
        state, info = learner.step(state, sample_tasks(jax.random.fold_in(key, m)))
        losses.append(float(info.outer_loss[..., -1].mean()))
    return state.hparams, losses


def main():
    optimizer, params = optax.sgd(0.002), jnp.zeros(SCALES.size)
    factors, _ = learn(jax.random.key(0), optimizer)
    weights = hd.InnerState(params, optimizer.init(params))
    tasks, problem = sample_tasks(jax.random.key(1)), make_problem(optimizer)
    for name, hparams in (("one rate for all", jnp.zeros(SCALES.size)), ("learnt rates", factors)):
        errors = hd.evaluate(problem, hparams, weights, tasks, horizon=INNER_STEPS)
        print(f"{name}: loss after {INNER_STEPS} steps on new tasks {errors.mean():.3f}")
    for scale, factor in zip(SCALES, jnp.exp(factors), strict=True):
        print(f"feature of scale {scale:6.2f}: rate x {factor:.2f}")


if __name__ == "__main__":
    main()
