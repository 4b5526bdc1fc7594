"""The rank of a noisy matrix by variational Bayesian matrix factorisation.

Nakajima, Sugiyama, Babacan and Tomioka, Global Analytic Solution of Fully-Observed Variational Bayesian Matrix
Factorization, JMLR 14 (2013). Kim et al. (ICLR 2016, arXiv:1511.06530) choose the ranks of Tucker-2 with it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

Array = NDArray[np.float64]

_THRESHOLD = 2.5129
"""Root of the equation for the smallest signal that is found, as in section 4 of the paper."""


def vbmf_rank(singular_values: Array, rows: int, columns: int) -> int:
    """The estimated rank of a (rows, columns) matrix with all these singular values: signal plus Gaussian noise.

    The variance of the noise is estimated by minimising the free energy (equation 51). Returns at least 1.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> signal = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 60))
        >>> noisy = signal + 0.1 * rng.normal(size=(40, 60))
        >>> vbmf_rank(np.linalg.svd(noisy, compute_uv=False), 40, 60)
        3
    """
    small, large = min(rows, columns), max(rows, columns)
    values = np.sort(np.asarray(singular_values, dtype=np.float64))[::-1][:small]
    alpha = small / large
    least = _THRESHOLD * math.sqrt(alpha)
    limit = (1 + least) * (1 + alpha / least)
    top = float(np.sum(values**2)) / (small * large)
    if top == 0.0:
        return 1
    most = max(min(math.ceil(small / (1 + alpha)) - 1, small) - 1, 0)
    rest = values[most + 1 :] if most + 1 < small else values[-1:]
    bottom = max(float(rest[0]) ** 2 / (large * limit), float(np.mean(rest**2)) / large, 1e-12 * top)

    def free_energy(variance: float) -> float:
        x = np.maximum(values**2 / (large * variance), 1e-300)
        signal, noise = x[x > limit], x[x <= limit]
        half = signal - (1 + alpha)
        tau = 0.5 * (half + np.sqrt(half**2 - 4 * alpha))
        return float(
            np.sum(noise - np.log(noise))
            + np.sum(signal - tau + np.log((tau + 1) / signal) + alpha * np.log(tau / alpha + 1))
        )

    found = top if bottom >= top else minimize_scalar(free_energy, bounds=(bottom, top), method="bounded").x
    return max(1, int(np.sum(values > math.sqrt(large * found * limit))))
