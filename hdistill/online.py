"""Online estimators: a hypergradient after every inner step."""

from hdistill.hypergradient.first_order import online_first_order as first_order
from hdistill.hypergradient.forward_mode import online_forward_mode as forward_mode
from hdistill.hypergradient.greedy import online_greedy as greedy
from hdistill.hypergradient.hyperdistill import online_hyperdistill as hyperdistill
from hdistill.hypergradient.implicit import online_implicit as implicit
from hdistill.hypergradient.nres import online_nres as nres
from hdistill.hypergradient.one_step import online_one_step as one_step
from hdistill.hypergradient.reverse_mode import online_reverse_mode as reverse_mode
from hdistill.hypergradient.robust import online_robust_hyperdistill as robust_hyperdistill

__all__ = [
    "first_order",
    "forward_mode",
    "greedy",
    "hyperdistill",
    "implicit",
    "nres",
    "one_step",
    "reverse_mode",
    "robust_hyperdistill",
]
