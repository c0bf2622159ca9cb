"""hdistill: hypergradients in JAX, online and offline, with HyperDistill at its heart.

    problem = hd.from_losses(inner_loss, outer_loss, optax.sgd(0.1, momentum=0.9))
    weights = hd.InnerState(params, optimizer.init(params))
    g = hd.offline.reverse_mode(problem, hparams, weights, batches, outer_batch)

See `hd.offline` for the hypergradient over a whole inner optimisation, `hd.online` for estimators
that give one after every inner step, `hd.learner` for meta-learning with either, and
`hd.Problem` for your own Φ.

Which method when: docs/which.md. In short: `hd.offline.reverse_mode` where the weights of T steps
fit in memory, `hd.offline.drmad` with few of them, `hd.online.robust_hyperdistill` where λ must
move during training.
"""

from hdistill import offline, online
from hdistill.accumulate import accumulate
from hdistill.cache import clear_cache
from hdistill.checks.batches import OutOfDataWarning
from hdistill.checks.problem import NonFiniteWarning, ZeroHypergradientWarning
from hdistill.compare import Fidelity, compare
from hdistill.diagnose import diagnose
from hdistill.diagnosis import Cheaper, Diagnosis
from hdistill.hypergradient.estimator import Estimator, Hypergradient, Transition
from hdistill.hypergradient.fit import FitStatus
from hdistill.hypergradient.fit_size import SizeSamples, fit_size
from hdistill.hypergradient.offline_method import OfflineInfo
from hdistill.influence import LDS, influence, lds, leave_out
from hdistill.learners.evaluate import evaluate
from hdistill.learners.initialization import Initialization, fomaml, maml, reptile
from hdistill.learners.inner_loop import LearnerInfo
from hdistill.learners.learner import Learner, LearnerState, learner
from hdistill.learners.pmap import pmap_step
from hdistill.learners.stream import FitInfo, Stream, StreamState, stream
from hdistill.problem import InnerState, Problem, from_losses, meta_problem, unroll
from hdistill.reversible import FixedPoint, Reversible, reversible_sgd
from hdistill.schedule import curve, schedule
from hdistill.smoothness import smoothness

__all__ = [
    "LDS",
    "Cheaper",
    "Diagnosis",
    "Estimator",
    "Fidelity",
    "FitInfo",
    "FitStatus",
    "FixedPoint",
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
    "Reversible",
    "SizeSamples",
    "Stream",
    "StreamState",
    "Transition",
    "ZeroHypergradientWarning",
    "accumulate",
    "clear_cache",
    "compare",
    "curve",
    "diagnose",
    "evaluate",
    "fit_size",
    "fomaml",
    "from_losses",
    "influence",
    "lds",
    "learner",
    "leave_out",
    "maml",
    "meta_problem",
    "offline",
    "online",
    "pmap_step",
    "reptile",
    "reversible_sgd",
    "schedule",
    "smoothness",
    "stream",
    "unroll",
]
__version__ = "0.2.0"
