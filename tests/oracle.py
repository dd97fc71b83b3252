"""Dense yardsticks: the measurement matrix written out, entry by entry, in float64.

Nothing here calls the operators.  Rotations come from scipy, the CTF from its textbook form (astigmatism by
cosines, aberrations as products), sums over frequencies are plain sums.  Two matrices are on offer:

- :func:`projected`: the band-limited H on a circular detector of any width, the definition behind the code;
- :func:`sampled`: Kaiser-Bessel functions projected and sampled in real space, the definition of the thesis.

Vectors of coefficients are volumes ``[z, y, x]`` flattened; the rows of H are pixels ``[p, y, x]`` flattened.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.integrate import quad_vec
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation
from scipy.special import iv, ive, j0, jv

from dcryo.imaging.particles import Optics, Particles

PIXEL = 1.7
"""Pixel size [Å] of the examples."""


def flat(w: np.ndarray) -> np.ndarray:
    """Basis function of band-limited voxels: one everywhere."""
    return np.ones_like(w)


def example(count: int, seed: int, optics: Optics | tuple[Optics, ...] | None = None) -> Particles:
    """Particles with random poses, shifts of up to 1.5 pixels, astigmatism and all else that varies."""
    rng = np.random.default_rng(seed)
    if optics is None:
        optics = Optics(pixel_size=PIXEL, beam_tilt=(2e-3, -1e-3))
    groups = optics if isinstance(optics, tuple) else (optics,)
    u = rng.uniform(5e3, 9e3, count)
    return Particles.empty_columns(
        count,
        rotation=Rotation.random(count, rng=rng).as_quat(),
        shift=rng.uniform(-1.5, 1.5, (count, 2)) * PIXEL,
        defocus=np.stack([u, u - rng.uniform(0, 800, count), rng.uniform(0, math.pi, count)], axis=1),
        phase_shift=rng.uniform(0, 1, count),
        bfactor=rng.uniform(5, 25, count),
        scale=rng.uniform(0.7, 1.3, count),
        optics_group=np.arange(count) % len(groups),
        optics=groups,
    )


def plain(count: int, seed: int) -> Particles:
    """Random poses and shifts, no CTF."""
    return replace(example(count, seed), optics=(Optics(pixel_size=PIXEL, ctf=False),))


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """White noise, float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def blob(n: int, width: float = 1.2) -> np.ndarray:
    """Two Gaussians well inside a box, float32: an object without edges."""
    z, y, x = np.indices((n, n, n)) - n // 2
    out = np.exp(-((x - 0.4) ** 2 + (y + 0.3) ** 2 + z**2) / (2 * width**2))
    out -= 0.5 * np.exp(-((x + 0.8) ** 2 + y**2 + (z - 0.7) ** 2) / (2 * width**2))
    return out.astype(np.float32)


def contrast(particles: Particles, p: int, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CTF (real, with envelope and scale) and odd phase (with shift) at w (..., 2) rad per image pixel."""
    optics = particles.optics[particles.optics_group[p]]
    phase = -(w @ particles.shift[p]) / optics.pixel_size
    if not optics.ctf:
        return np.full(w.shape[:-1], particles.scale[p]), phase
    f = w @ np.array(optics.magnification).T / (2 * math.pi * optics.pixel_size)
    radius, angle = np.hypot(f[..., 0], f[..., 1]), np.arctan2(f[..., 1], f[..., 0])
    volts = optics.voltage * 1e3
    length = 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))  # the constants are RELION's
    u, v, azimuth = particles.defocus[p]
    defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (angle - azimuth))
    chi = math.pi * length * defocus * radius**2 - math.pi / 2 * optics.cs * length**3 * radius**4
    chi = chi + particles.phase_shift[p] + math.asin(optics.amplitude_contrast)
    value = particles.scale[p] * np.sin(chi) * np.exp(-particles.bfactor[p] * radius**2 / 4)
    return value, phase - 2 * math.pi * optics.cs * length**2 * radius**2 * (f @ np.array(optics.beam_tilt))


@dataclass(frozen=True)
class Dense:
    """H (pixels, voxels) of a particle set on a circular detector; ``width`` its side, ``m`` the images'."""

    matrix: np.ndarray
    width: int
    m: int
    n: int

    def pad(self, images: np.ndarray) -> np.ndarray:
        """Images (P, m, m) as a vector of the detector, zero outside."""
        out = np.zeros((len(images), self.width, self.width))
        out[:, : self.m, : self.m] = images
        return out.reshape(-1)

    def rhs(self, images: np.ndarray) -> np.ndarray:
        """Hᵀb, (n, n, n)."""
        return (self.matrix.T @ self.pad(images)).reshape(self.n, self.n, self.n)

    def apply(self, volume: np.ndarray) -> np.ndarray:
        """Hc on the detector, (P, width, width)."""
        return (self.matrix @ volume.reshape(-1).astype(np.float64)).reshape(-1, self.width, self.width)

    def normal(self) -> np.ndarray:
        """HᵀH, (n^3, n^3)."""
        return self.matrix.T @ self.matrix


def limit(optics: Optics, pixel_size: float, scale: float) -> float:
    """Band limit in rad per voxel: the voxels' Nyquist frequency, or the (cropped) images' lowest."""
    smallest = np.linalg.svd(np.array(optics.magnification), compute_uv=False)[-1]
    return math.pi * min(1.0, smallest * pixel_size / optics.pixel_size)


def projected(
    particles: Particles,
    n: int,
    *,
    pixel_size: float = PIXEL,
    scale: int = 1,
    detector: int = 2,
    basis: Callable[[np.ndarray], np.ndarray] = flat,
    filters: Callable[[int, np.ndarray], np.ndarray] | None = None,
    treated: str = "",
) -> Dense:
    """H of band-limited basis functions, for images of ``scale * n`` pixels on a wider circular detector.

    ``basis`` is a function of |v| in rad/voxel; ``filters(group, |v|)`` multiplies the images (whitening, on
    both sides of the equation); ``treated`` "flipped" takes the modulus of the CTF, "backward" leaves it out.
    """
    m = scale * n
    width = detector * m
    j = np.fft.fftfreq(width) * 2 * math.pi
    w = np.stack(np.meshgrid(j, j, indexing="xy"), axis=-1)
    k = np.arange(n) - n // 2
    blocks = []
    for p in range(len(particles)):
        optics = particles.optics[particles.optics_group[p]]
        voxels = np.array(optics.magnification) * (scale * pixel_size / optics.pixel_size)
        v = w @ voxels.T
        radius = np.hypot(v[..., 0], v[..., 1])
        inside = radius < limit(optics, pixel_size, scale) * (1 - 1e-13)
        value, phase = contrast(particles, p, w[inside])
        if treated == "flipped":
            value = np.abs(value)
        elif treated == "backward":
            value = np.ones_like(value)
        # a projection is measured in voxels of pixel_size, whatever the pixels of the images and of the map
        gain = scale**3 * (pixel_size / optics.pixel_size) ** 2
        value = gain * value * basis(radius[inside]) * np.exp(1j * phase)
        if filters is not None:
            value = value * filters(int(particles.optics_group[p]), radius[inside])
        q = v[inside] @ Rotation.from_quat(particles.rotation[p]).as_matrix()[:2]
        ex, ey, ez = (np.exp(-1j * q[:, i, None] * k) for i in range(3))
        # the first pixel of an image is m // 2 pixels from its centre
        value = value * np.exp(-1j * w[inside].sum(-1) * (m // 2))
        block = np.empty((width * width, n, n, n))
        for z in range(n):
            spectrum = np.zeros((width, width, n, n), complex)
            spectrum[inside] = np.einsum("q,qy,qx->qyx", value * ez[:, z], ey, ex)
            column = np.fft.ifft2(spectrum, axes=(0, 1))
            assert np.abs(column.imag).max() <= 1e-12 * max(1.0, np.abs(column.real).max())
            block[:, z] = column.real.reshape(width * width, n, n)
        blocks.append(block.reshape(width * width, n**3))
    return Dense(np.concatenate(blocks), width, m, n)


def toeplitz(kernel: np.ndarray, n: int) -> np.ndarray:
    """The matrix r[k - l] of a kernel stored as rfftn's lattice has it (lag 0 first), (n^3, n^3)."""
    k = np.indices((n, n, n)).reshape(3, -1)
    lag = (k[:, :, None] - k[:, None, :]) % kernel.shape[0]
    return kernel[lag[0], lag[1], lag[2]]


def sheared_kernel(particles: Particles, n: int, length: int, *, pixel_size: float = PIXEL) -> np.ndarray:
    """r by a sum over the lattice 2 pi / length in the two axes on which the slice is flattest; |lag| < n.

    Returned on a lattice of ``length`` points per axis, lag 0 first; zero for lags of n and more.
    """
    i = np.arange(-(length // 2) + 1, length // 2)
    qa, qb = np.meshgrid(2 * math.pi / length * i, 2 * math.pi / length * i, indexing="ij")
    lags = np.arange(1 - n, n)
    out = np.zeros((length, length, length))
    kernel = np.zeros((2 * n - 1,) * 3, complex)
    for p in range(len(particles)):
        optics = particles.optics[particles.optics_group[p]]
        a = Rotation.from_quat(particles.rotation[p]).as_matrix()
        d = int(np.argmax(np.abs(a[2])))
        others = [x for x in range(3) if x != d]
        q = np.zeros((*qa.shape, 3))
        q[..., others[0]], q[..., others[1]] = qa, qb
        q[..., d] = -(a[2, others[0]] * qa + a[2, others[1]] * qb) / a[2, d]
        v = q @ a[:2].T
        inside = np.hypot(v[..., 0], v[..., 1]) < limit(optics, pixel_size, 1)
        back = np.linalg.inv(np.array(optics.magnification) * (pixel_size / optics.pixel_size))
        value, _ = contrast(particles, p, v[inside] @ back.T)
        gain = (pixel_size / optics.pixel_size) ** 2
        value = (gain * value) ** 2 * abs(np.linalg.det(back)) / (length**2 * abs(a[2, d]))
        ex, ey, ez = (np.exp(1j * q[inside][:, x, None] * lags) for x in range(3))
        for z in range(2 * n - 1):
            kernel[z] += (ey * (value * ez[:, z])[:, None]).T @ ex
    at = lags % length
    out[np.ix_(at, at, at)] = kernel.real
    return out


@dataclass(frozen=True)
class Window:
    """Kaiser-Bessel window of order 2 (thesis 2.4, 4.40): projection and Fourier transform."""

    radius: float
    alpha: float

    def projection(self, r: np.ndarray) -> np.ndarray:
        """Line integral at the distance r."""
        beta = np.sqrt(np.maximum(1 - (r / self.radius) ** 2, 0))
        scale = self.radius * math.sqrt(2 * math.pi / self.alpha) / iv(2, self.alpha)
        return np.where(r < self.radius, scale * beta**2.5 * iv(2.5, self.alpha * beta), 0)

    def fourier(self, w: np.ndarray) -> np.ndarray:
        """Fourier transform at the radial frequency w."""
        z2 = self.alpha**2 - (self.radius * np.asarray(w, float)) ** 2
        z = np.maximum(np.sqrt(np.abs(z2)), 1e-9)
        bessel = np.where(z2 > 0, ive(3.5, z) * np.exp(z), jv(3.5, z))
        scale = (2 * math.pi) ** 1.5 * self.radius**3 * self.alpha**2 / iv(2, self.alpha)
        return scale * bessel / z**3.5

    def blurred(self, r: np.ndarray, sigma: float) -> np.ndarray:
        """The projection convolved with a Gaussian of deviation ``sigma``, by its Hankel transform."""
        grid = np.linspace(0, float(r.max()) + 0.1, 4000)
        value, _ = quad_vec(
            lambda w: w * self.fourier(w) * math.exp(-((sigma * w) ** 2) / 2) * j0(w * grid) / (2 * math.pi),
            0,
            min(8 / sigma, 40.0),
            epsabs=1e-13,
            epsrel=1e-12,
            limit=400,
        )
        return CubicSpline(grid, value)(r)


def sampled(
    particles: Particles, n: int, scale: int, detector: int, profile: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """H of radial functions sampled in real space on ``detector * scale * n`` pixels, (pixels, voxels).

    ``profile(r)`` is the projected, blurred basis function at the distance r in image pixels.
    """
    m = detector * scale * n
    j = np.arange(m) - m // 2
    k = np.stack(np.meshgrid(*[np.arange(n) - n // 2] * 3, indexing="ij")[::-1]).reshape(3, -1)
    blocks = []
    for p in range(len(particles)):
        a = Rotation.from_quat(particles.rotation[p]).as_matrix()[:2]
        t = particles.shift[p] / particles.optics[particles.optics_group[p]].pixel_size
        centre = scale * a @ k + t[:, None]
        r = np.hypot(j[None, :, None] - centre[0], j[:, None, None] - centre[1])
        blocks.append(particles.scale[p] * profile(r).reshape(m * m, -1))
    return np.concatenate(blocks)


def frequencies(n: int) -> np.ndarray:
    """Plane frequencies of n pixels below the band limit of band-limited voxels, (S, 2) rad/pixel."""
    j = np.fft.fftfreq(n) * 2 * math.pi
    w = np.stack(np.meshgrid(j, j, indexing="xy"), axis=-1).reshape(-1, 2)
    return w[np.hypot(w[:, 0], w[:, 1]) < math.pi * (1 - 1e-13)]


def transform(values: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fourier transform of an image or volume of side n at q (S, d), d = 2, 3, and its gradient (S, d)."""
    k = np.arange(len(values)) - len(values) // 2
    waves = np.exp(-1j * k[:, None] * q.T[:, None])

    def total(factors: np.ndarray) -> np.ndarray:
        out = values.astype(float) @ factors[0]
        for factor in factors[1:]:
            out = (out * factor).sum(axis=-2)
        return out

    slopes = [waves.copy() for _ in q.T]
    for i, slope in enumerate(slopes):
        slope[i] *= -1j * k[:, None]
    return total(waves), np.stack([total(slope) for slope in slopes], axis=-1)


def pose_terms(
    particles: Particles, p: int, volume: np.ndarray, image: np.ndarray,
    basis: Callable[[np.ndarray], np.ndarray] = flat,
) -> tuple[float, np.ndarray, np.ndarray]:  # fmt: skip
    """Data term of a particle, its gradient (5,) and Gauss-Newton matrix (5, 5), as sums over frequencies.

    The five numbers are a rotation vector d in the frame of the volume, A -> A exp(-[d]x), and the shift in
    pixels.  Image and volume have the same side and pixels.
    """
    n = len(volume)
    w = frequencies(n)
    value, phase = contrast(particles, p, w)
    factor = value * basis(np.hypot(w[:, 0], w[:, 1])) * np.exp(1j * phase)
    q = w @ Rotation.from_quat(particles.rotation[p]).as_matrix()[:2]
    ideal, slope = transform(volume, q)
    # a turn by d moves q by d x q
    jacobian = np.hstack([factor[:, None] * np.cross(q, slope), -1j * w * (factor * ideal)[:, None]]) / n
    residual = (factor * ideal - transform(image, w)[0]) / n
    cost = 0.5 * (np.abs(residual) ** 2).sum()
    return cost, (jacobian.conj().T @ residual).real, (jacobian.conj().T @ jacobian).real
