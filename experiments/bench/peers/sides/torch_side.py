"""PyTorch by hand, all tasks in one batch."""

import torch
from serve import serve
from torch_model import losses, tensors


def make(problem, method, settings, arrays):
    """The mean hypergradient at w_T, or λ after it moved at every inner step."""
    inner_loss, outer_loss = losses(problem)
    lam, w_0, inner, outer = tensors(arrays)
    rate, momentum = settings["rate"], settings["momentum"]

    def update(w, trace, lam):
        gradient = torch.autograd.grad(inner_loss(w, lam, inner).sum(), w, create_graph=True)
        trace = [momentum * t + g for t, g in zip(trace, gradient)]
        return [x - rate * t for x, t in zip(w, trace)], trace

    def reverse_mode():
        w, trace = start()
        for _ in range(settings["horizon"]):
            w, trace = update(w, trace, lam)
        return torch.autograd.grad(outer_loss(w, lam, outer).mean(), lam)

    def one_step():
        (w, trace), moving = start(), lam
        for _ in range(settings["horizon"]):
            w, trace = update(w, trace, moving)
            gradient = torch.autograd.grad(outer_loss(w, moving, outer).mean(), moving)
            w, trace = ([x.detach().requires_grad_() for x in y] for y in (w, trace))
            moving = [
                (x - settings["hyper_rate"] * g).detach().requires_grad_()
                for x, g in zip(moving, gradient)
            ]
        return [x.detach() for x in moving]

    def start():
        return [x.clone().requires_grad_() for x in w_0], [torch.zeros_like(x) for x in w_0]

    return {"rmd": reverse_mode, "one-step": one_step}[method]


serve(make)
