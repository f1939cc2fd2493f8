"""Bounds on the error of dropping the curvature under plain gradient descent with weight decay.

With L a bound on the Hessian's norm, M on that of every hypergradient, eta_k the rates and lambda the weight decay,
the error e_t = exact - approximate hypergradient after t steps has

    |e_t| <= (L M / lambda) (1 - prod_k (1 - eta_k lambda)) <= L M min(1 / lambda, sum_k eta_k),

for any rates with eta_k lambda <= 1. The published bound (eq. 7) needs rates that never rise, and is never smaller.

Source: Chen et al. 2021, Theorem 1 and appendix; the first form is ours.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def descent_bound(rates: Sequence[float], *, weight_decay: float, hessian: float, hypergradient: float) -> Array:
    """The bound after every step, (steps,).

    Args:
        rates: eta_1 ... eta_t, positive, each times the weight decay at most 1.
        weight_decay: lambda, not negative.
        hessian: L.
        hypergradient: M.
    """
    eta = np.asarray(rates, np.float64)
    if weight_decay == 0:
        return np.asarray(hessian * hypergradient * np.cumsum(eta))
    # expm1 and log1p keep the digits of small lambda.
    log_product = np.cumsum(np.log1p(-np.minimum(eta * weight_decay, 1 - 1e-16)))
    return np.asarray(-hessian * hypergradient / weight_decay * np.expm1(log_product))


def published_bound(rates: Sequence[float], *, weight_decay: float, hessian: float, hypergradient: float) -> Array:
    """Theorem 1 as published: L M eta_1 / (eta_t lambda) after every step, (steps,); the rates must never rise.

    Source: Chen et al. 2021, eq. 7.
    """
    eta = np.asarray(rates, np.float64)
    return np.asarray(hessian * hypergradient * eta[0] / (eta * weight_decay))
