"""Peers of the convolution: the full zero-padded pair of real FFTs, in single precision."""

from __future__ import annotations

import numpy as np
import scipy.fft

from dcryo.bench import truth
from dcryo.bench.ours import convolution_problem
from dcryo.bench.subject import Job, Numbers


class Scipy:
    """``scipy.fft.rfftn``, a product, ``irfftn``."""

    def __init__(self, job: Job) -> None:
        """The spectrum and the volume that we convolve."""
        self.job = job
        self.spectrum, self.volume = convolution_problem(job)

    def run(self) -> truth.Float32:
        """Convolve."""
        n, shape = self.job.box, (len(self.spectrum),) * 3
        transform = scipy.fft.rfftn(self.volume, s=shape, workers=self.job.threads)
        transform *= self.spectrum
        product = scipy.fft.irfftn(transform, s=shape, workers=self.job.threads, overwrite_x=True)
        return np.ascontiguousarray(product[:n, :n, :n])

    def check(self, result: truth.Float32) -> Numbers:
        """As ours."""
        return {"relative": truth.convolution_error(self.spectrum, self.volume, result)}


class Ducc(Scipy):
    """``ducc0.fft.r2c`` and ``c2r`` in arrays that are kept; c2r turns back with ``forward=False`` only."""

    def __init__(self, job: Job) -> None:
        """Make the arrays as well."""
        super().__init__(job)
        length = len(self.spectrum)
        self._padded = np.zeros((length,) * 3, np.float32)
        self._transform = np.zeros(self.spectrum.shape, np.complex64)
        self._product = np.zeros((length,) * 3, np.float32)

    def run(self) -> truth.Float32:
        """Convolve."""
        from ducc0 import fft

        n, threads = self.job.box, self.job.threads
        self._padded[:n, :n, :n] = self.volume
        fft.r2c(self._padded, axes=(0, 1, 2), nthreads=threads, out=self._transform)
        self._transform *= self.spectrum
        fft.c2r(
            self._transform,
            axes=(0, 1, 2),
            lastsize=len(self.spectrum),
            forward=False,
            inorm=2,
            nthreads=threads,
            out=self._product,
        )
        return np.ascontiguousarray(self._product[:n, :n, :n])
