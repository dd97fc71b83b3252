"""The data term as a function of the poses: value, gradient and Gauss-Newton matrix of every particle.

    J_p = 1/(2 N^2) sum_w W(w) |S_p(w) - B_p(w)|^2,        S_p(w) = T_p(w) c^(A_p[:2]ᵀ D w),

with B_p the Fourier transform of image p of N x N pixels, T_p its transfer function times the basis function,
and W the inverse noise spectrum, over the plane frequencies below a radius.  A pose moves by five numbers: a
rotation vector d in the frame of the volume, which turns the slice, A -> A exp(-[d]x), and a shift in pixels.

    dS/dd = T u x grad c^(u),        dS/dt = -i w S

This is the image-space form of Theorem 3 of Donati (EPFL thesis, 2020), which correlates volumes instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.operators.compiled import blocks, compile_kernel, for_each
from dcryo.operators.projector import grid_rows, half_width, lattice_radius2, modulate_views, volume_to_grid
from dcryo.operators.slices import HalfGrid
from dcryo.operators.spreading import gather_gradient
from dcryo.operators.transfer import FORWARD, lattice_line, line_quadratic, lookup, quadratic
from dcryo.operators.views import Radial, Views
from dcryo.operators.window import window

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Complex64 = NDArray[np.complex64]
Indices = NDArray[np.intp]

WIDTH = 6
"""Taps of all windows that this module knows."""

BLOCK = 16
"""Particles in an item of work."""

SLICES = 256
"""Slices that are extracted at once."""

PARAMETERS = 5
"""Rotation vector in the frame of the volume [rad], shift in x and y [pixels]."""


@dataclass(frozen=True)
class PoseTerms:
    """Data terms of P particles: cost (P,), gradient (P, 5) and Gauss-Newton matrix (P, 5, 5), float64."""

    cost: Float64
    gradient: Float64
    normal: Float64


@compile_kernel(
    "void(f8[:,::1], f4[:,:,::1], f4[:,:,:,::1], f4[:,:,:,::1], f4[:,:,::1], f4[::1], f8[:,:,::1], i8[::1],"
    " i8[::1], f8[::1], f4[:,::1], f4[:,::1], i8, i8, i8, f8, f8)"
)
def _sum_terms(
    out: Any, grid: Any, data: Any, factor: Any, rows3: Any, radius2: Any, distortion: Any, group: Any,
    image: Any, limit2: Any, weight: Any, polynomial: Any, z0: int, y0: int, x0: int, step: float,
    turn: float,
) -> None:  # fmt: skip
    """Sums of every particle, (P, 21): the cost, the gradient, the lower triangle of the matrix by rows.

    grid: padded half grid, cell 0 at (z0, y0, x0); data (., 2h+1, h+1, 2): B, particle p's at image[p];
    factor (P, 2h+1, h+1, 2): T; rows3 and radius2 as for an extraction; step: 2 pi / n; turn: 2 pi / N, the
    phase of a shift of one pixel.
    """
    half = np.float32(WIDTH / 2)
    cells = grid.reshape(-1)
    step_y = np.int64(grid.shape[2])
    step_z = step_y * grid.shape[1]
    origin = z0 * step_z + y0 * step_y + x0
    h = data.shape[2] - 1
    j_re = np.empty(PARAMETERS)
    j_im = np.empty(PARAMETERS)
    for p in range(factor.shape[0]):
        out[p] = 0
        at_image = image[p]
        noise = weight[group[p]]
        for b in range(-h, h + 1):
            room = radius2[p] - b * b
            if room <= 0:
                continue
            line = lattice_line(distortion[p], step, b)
            s2 = line_quadratic(1.0, 0.0, 1.0, line[0], line[1], line[2], line[3])
            fb = np.float32(b)
            for a in range(1 if b < 0 else 0, min(h, int(math.sqrt(room))) + 1):
                s = quadratic(s2, a)
                if a * a + b * b >= radius2[p] or s >= limit2[p]:
                    continue
                fa = np.float32(a)
                ux = fa * rows3[p, 0, 0] + fb * rows3[p, 1, 0]
                uy = fa * rows3[p, 0, 1] + fb * rows3[p, 1, 1]
                uz = fa * rows3[p, 0, 2] + fb * rows3[p, 1, 2]
                # the grid holds u_x >= 0; elsewhere there is the conjugate of what is at -u
                sign = np.float32(-1 if ux < 0 else 1)
                tx, ty, tz = sign * ux - half, sign * uy - half, sign * uz - half
                jx, jy, jz = np.ceil(tx), np.ceil(ty), np.ceil(tz)
                found = gather_gradient(
                    WIDTH, cells, origin + np.int64(jz) * step_z + np.int64(jy) * step_y + 2 * np.int64(jx),
                    step_y, step_z, polynomial,
                    np.float32(2) * (jx - tx) - np.float32(1),
                    np.float32(2) * (jy - ty) - np.float32(1),
                    np.float32(2) * (jz - tz) - np.float32(1),
                )  # fmt: skip
                c_re, c_im = found[0], sign * found[1]
                gx_re, gx_im = sign * found[2], found[3]
                gy_re, gy_im = sign * found[4], found[5]
                gz_re, gz_im = sign * found[6], found[7]
                f_re, f_im = factor[p, b + h, a, 0], factor[p, b + h, a, 1]
                s_re = f_re * c_re - f_im * c_im
                s_im = f_re * c_im + f_im * c_re
                r_re = np.float64(s_re - data[at_image, b + h, a, 0])
                r_im = np.float64(s_im - data[at_image, b + h, a, 1])
                t_re = uy * gz_re - uz * gy_re
                t_im = uy * gz_im - uz * gy_im
                j_re[0], j_im[0] = f_re * t_re - f_im * t_im, f_re * t_im + f_im * t_re
                t_re = uz * gx_re - ux * gz_re
                t_im = uz * gx_im - ux * gz_im
                j_re[1], j_im[1] = f_re * t_re - f_im * t_im, f_re * t_im + f_im * t_re
                t_re = ux * gy_re - uy * gx_re
                t_im = ux * gy_im - uy * gx_im
                j_re[2], j_im[2] = f_re * t_re - f_im * t_im, f_re * t_im + f_im * t_re
                j_re[3], j_im[3] = turn * a * s_im, -turn * a * s_re
                j_re[4], j_im[4] = turn * b * s_im, -turn * b * s_re
                # a sample stands for its mirror image as well, but for the zero frequency
                w = lookup(noise, s) * (1.0 if a == 0 and b == 0 else 2.0)
                out[p, 0] += 0.5 * w * (r_re * r_re + r_im * r_im)
                at = 1 + PARAMETERS
                for i in range(PARAMETERS):
                    v_re, v_im = w * j_re[i], w * j_im[i]
                    out[p, 1 + i] += v_re * r_re + v_im * r_im
                    for k in range(i + 1):
                        out[p, at] += v_re * j_re[k] + v_im * j_im[k]
                        at += 1


class PoseModel:
    """A volume, ready to be compared with images at any poses.

    Parameters
    ----------
    volume : (n, n, n) float32
        Coefficients of the basis functions.
    accuracy : {"default", "accurate", "fast"}
        Of the slices; the window's edge is what limits the derivatives, to 2e-4, 4e-5 and 1e-3 of their size.
    threads : int
        0: all processors.
    """

    def __init__(self, volume: Float32, accuracy: str = "default", threads: int = 0) -> None:
        self._geometry = HalfGrid(len(volume), window(accuracy))
        self._grid = volume_to_grid(np.asarray(volume, np.float32), self._geometry, threads)
        self._threads = threads

    @property
    def n(self) -> int:
        """Side of the volume."""
        return self._geometry.n

    def factors(self, views: Views, radial: Radial, box: int) -> Float32:
        """What slices are multiplied with, (P, 2h+1, h+1, 2): transfer function times basis function."""
        n = self.n
        h = half_width(n)
        factor = np.zeros((len(views), 2 * h + 1, h + 1, 2), np.float32)
        factor[..., 0] = 1
        modulate_views(factor, views, radial.forward, radial.energy, n, (box // 2) * n / box, FORWARD, 1)
        return factor

    def slices(self, rotations: Float64, distortion: Float64, a: Indices, b: Indices) -> Complex64:
        """The Fourier transform of the volume at the frequencies (a, b) (K,) of R central slices, (R, K).

        ``rotations`` (R, 3, 3); ``distortion`` (2, 2) the D of all of them; a and b as in a lattice of n.
        """
        n = self.n
        h = half_width(n)
        found = np.empty((len(rotations), len(a)), np.complex64)
        rows = distortion.T @ rotations[:, :2] * (self._geometry.size / n)
        radius2 = np.full(SLICES, float((a * a + b * b).max() + 1), np.float32)
        for part in blocks(len(rotations), SLICES):
            some = np.ascontiguousarray(rows[part], np.float32)
            values = np.zeros((len(some), 2 * h + 1, h + 1, 2), np.float32)
            self._geometry.extract(self._grid, values, some, radius2[: len(some)], self._threads)
            found[part] = values.view(np.complex64)[:, b + h, a, 0]
        return found

    def terms(
        self, data: Float32, views: Views, radial: Radial, *, box: int, radius: float = math.inf,
        image: Indices | None = None,
    ) -> PoseTerms:  # fmt: skip
        """Data terms of P particles.

        Parameters
        ----------
        data : (., 2h+1, h+1, 2) float32
            Images as :func:`dcryo.operators.projector.to_lattice` leaves them.
        views : Views
            Poses and transfer functions of the particles.
        radial : Radial
            Basis function and noise weight.
        box : int
            Side N of the images, in pixels.
        radius : float
            Frequencies of this many Fourier pixels and more do not count, nor those beyond the band limit.
        image : (P,), optional
            Row of ``data`` that belongs to each particle; default row p to particle p.
        """
        n = self.n
        image = np.arange(len(views)) if image is None else image
        rows = grid_rows(views, self._geometry.size, n)
        radius2 = np.minimum(lattice_radius2(views, n), radius * radius).astype(np.float32)
        sums = np.empty((len(views), 1 + PARAMETERS + PARAMETERS * (PARAMETERS + 1) // 2))
        parts = blocks(len(views), BLOCK)

        def work(part: slice) -> None:
            some = views.take(part)
            factor = self.factors(some, radial, box)
            _sum_terms(
                sums[part], self._grid, data, factor, rows[part], radius2[part], some.distortion,
                some.group, image[part], some.limit2, radial.energy, self._geometry.window.polynomial,
                *self._geometry.origin, 2 * math.pi / n, 2 * math.pi / box,
            )  # fmt: skip

        for_each(work, parts, self._threads)
        sums /= box * box
        normal = np.empty((len(views), PARAMETERS, PARAMETERS))
        i, k = np.tril_indices(PARAMETERS)
        normal[:, i, k] = normal[:, k, i] = sums[:, 1 + PARAMETERS :]
        return PoseTerms(sums[:, 0], sums[:, 1 : 1 + PARAMETERS], normal)
