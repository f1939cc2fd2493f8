"""Optimizers that torch does not have, with the pure functions that make them known."""

import torch
from torch import Tensor
from torch.optim import Optimizer

import hydragrad as hg


class Belief(Optimizer):
    """AdaBelief: Adam with the variance of the gradient in place of its square."""

    def __init__(self, params, lr=0.01, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(step=0, mean=torch.zeros_like(p), variance=torch.zeros_like(p))
                state["step"] += 1
                p.mul_(1 - group["lr"] * group["weight_decay"])
                state["mean"].mul_(b1).add_(p.grad, alpha=1 - b1)
                state["variance"].mul_(b2).add_((p.grad - state["mean"]).square(), alpha=1 - b2)
                v_hat = state["variance"] / (1 - b2 ** state["step"])
                p.sub_(group["lr"] / (1 - b1 ** state["step"]) * state["mean"] / (v_hat.sqrt() + group["eps"]))


def belief(w, states, g, options, *, age, rho):
    mean, variance, v_hat = _believed(states, g, options, age)
    under = v_hat + rho
    root = torch.where(under > 0, torch.where(under > 0, under, 1.0).sqrt(), 0.0)
    w = (1 - options["lr"] * options["weight_decay"]) * w
    rate = options["lr"] / (1 - options["betas"][0] ** age)
    return w - rate * mean / (root + options["eps"]), {"mean": mean, "variance": variance}


def variance(w, states, g, options, age):
    return _believed(states, g, options, age)[2]


def _believed(states, g, options, age) -> tuple[Tensor, Tensor, Tensor]:
    b1, b2 = options["betas"]
    mean = b1 * states["mean"] + (1 - b1) * g
    variance = b2 * states["variance"] + (1 - b2) * (g - mean).square()
    return mean, variance, variance / (1 - b2**age)


hg.register_optimizer(
    Belief,
    step=belief,
    options=("lr", "betas", "eps", "weight_decay"),
    states=("mean", "variance"),
    second_moment=variance,
)


class Scaled(Optimizer):
    """Heavy ball with one learned rate for each row, which is smaller than its parameter, and no count of steps."""

    def __init__(self, params, lr, momentum=0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        self.move()

    def move(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(ball=torch.zeros_like(p), size=torch.zeros(p.shape[:1], dtype=p.dtype))
                state["size"].mul_(0.9).add_(p.grad.reshape(len(p), -1).square().mean(1), alpha=0.1)
                scale = 1 / (0.1 + state["size"]).reshape(-1, *[1] * (p.dim() - 1))
                state["ball"].mul_(group["momentum"]).add_(scale * p.grad)
                p.sub_(group["lr"] * state["ball"])


def scaled(w, states, g, options):
    size = 0.9 * states["size"] + 0.1 * g.reshape(len(g), -1).square().mean(1)
    ball = options["momentum"] * states["ball"] + g / (0.1 + size).reshape(-1, *[1] * (g.dim() - 1))
    return w - options["lr"] * ball, {"size": size, "ball": ball}


hg.register_optimizer(
    Scaled,
    step=scaled,
    options=("lr", "momentum"),
    states=("ball", "size"),
    state_shapes={"size": lambda shape: shape[:1]},
)
