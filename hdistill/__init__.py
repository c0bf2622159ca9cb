"""hdistill: hypergradients in JAX, online and offline, with HyperDistill at its heart.

    problem = hd.from_losses(inner_loss, outer_loss, optax.sgd(0.1, momentum=0.9))
    weights = hd.InnerState(params, optimizer.init(params))
    g = hd.offline.reverse_mode(problem, hparams, weights, batches, outer_batch)

See `hd.offline` for the hypergradient over a whole inner optimisation, `hd.online` for estimators
that give one after every inner step, `hd.learner` for meta-learning with either, and
`hd.Problem` for your own Φ.

Which method when (the figures are in RESULTS.md):

- λ may wait for the end of an inner optimisation, the weights of all T steps fit in memory (of 2√T
  of them with checkpoint=True): `hd.offline.reverse_mode`, with every=n in `hd.learner`. Exact, the
  loss at every n-th step counts, 2T - 1 products. It moves λ once where an online method moves it
  T/n times: give λ a larger learning rate.
- The same, but memory for few copies of the weights: `hd.offline.drmad` with anchors=k, every=n.
- λ must move during training (a stream without end, a very long T), or products are dear:
  `hd.online.robust_hyperdistill`, one product a step. To compare with the paper,
  `hd.online.hyperdistill` on a problem with a surrogate.
- A handful of λ, however long T is: `hd.offline.forward_mode` or `hd.online.forward_mode`.
- L_val depends on λ directly, and this direct gradient is nearly the whole:
  `hd.online.first_order`, no product.
- Training ends at a fixed point of Φ: `hd.offline.implicit`.
- One or two scalars: no hypergradient at all, a grid of them under `jax.vmap`.
"""

from hdistill import offline, online
from hdistill.batches import OutOfDataWarning
from hdistill.cache import clear_cache
from hdistill.fidelity import Fidelity, compare
from hdistill.hypergradient.base import Estimator, Hypergradient, Transition
from hdistill.hypergradient.fit import FitStatus
from hdistill.hypergradient.run_offline import OfflineInfo
from hdistill.hypergradient.size import SizeSamples, fit_size
from hdistill.learners.evaluate import evaluate
from hdistill.learners.initialization import Initialization, fomaml, maml, reptile
from hdistill.learners.inner_loop import LearnerInfo
from hdistill.learners.learner import Learner, LearnerState, learner
from hdistill.learners.parallel import pmap_step
from hdistill.learners.stream import FitInfo, Stream, StreamState, stream
from hdistill.meta_problem import meta_problem
from hdistill.problem import InnerState, Problem, from_losses, unroll
from hdistill.problem_checks import NonFiniteWarning, ZeroHypergradientWarning

__all__ = [
    "Estimator",
    "Fidelity",
    "FitInfo",
    "FitStatus",
    "Hypergradient",
    "Initialization",
    "InnerState",
    "Learner",
    "LearnerInfo",
    "LearnerState",
    "NonFiniteWarning",
    "OfflineInfo",
    "OutOfDataWarning",
    "Problem",
    "SizeSamples",
    "Stream",
    "StreamState",
    "Transition",
    "ZeroHypergradientWarning",
    "clear_cache",
    "compare",
    "evaluate",
    "fit_size",
    "fomaml",
    "from_losses",
    "learner",
    "maml",
    "meta_problem",
    "offline",
    "online",
    "pmap_step",
    "reptile",
    "stream",
    "unroll",
]
__version__ = "0.2.0"
