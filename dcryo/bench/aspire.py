"""ASPIRE as a peer: ``MeanEstimator`` on the STAR file, exact normal equations by conjugate gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dcryo.bench import truth
from dcryo.bench.particles import STAR, particle_truth
from dcryo.bench.subject import Job, Numbers

BATCH = 2500
"""Images at once: the fastest of those that fit a laptop; its default is 256."""

ITERATIONS = 25
"""Conjugate gradients at most; its default is 50."""


class Mean:
    """``MeanEstimator(...).estimate()`` with a batch of 2500 and at most 25 conjugate gradients."""

    def __init__(self, job: Job) -> None:
        """Import it."""
        import aspire.reconstruction
        import aspire.source

        self.job = job
        self._source = aspire.source.RelionSource
        self._estimator = aspire.reconstruction.MeanEstimator

    def run(self) -> truth.Float32:
        """Read the images and solve."""
        source = self._source(Path(self.job.folder) / STAR, n_workers=self.job.threads)
        estimator = self._estimator(
            source,
            batch_size=BATCH,
            maxiter=ITERATIONS,
            checkpoint_iterations=None,
            checkpoint_prefix="aspire",
        )
        return np.asarray(estimator.estimate().asnumpy()[0], np.float32)

    def check(self, result: truth.Float32) -> Numbers:
        """Its map against the truth; it takes matter as negative, so the correlation is."""
        return truth.map_errors(result, particle_truth(self.job.folder))
