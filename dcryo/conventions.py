"""The conventions of dcryo, in one place.  Foreign ones end in :mod:`dcryo.io`.

Arrays
    Volumes are indexed ``[z, y, x]``, images ``[y, x]``, stacks ``[particle, y, x]``.  *Vectors* are
    ``(x, y, z)`` and ``(x, y)``.  The centre of a box of n pixels, even or odd, is the index ``n // 2``.

Units
    Lengths in Å, angles in rad, voltages in kV, spherical aberration in Å.  Angular frequencies inside
    the operators are in rad per voxel.  Suffixes (``_deg``, ``_mm``) occur in ``io`` and ``cli`` only.

Pose
    ``A`` (3, 3) takes specimen coordinates to microscope coordinates, ``r' = A r``; its rows e1, e2 are the
    detector axes x and y and e3 is the beam.  With RELION's angles,
    ``A = Rz(psi) Ry(tilt) Rz(rot)`` with passive rotations, in scipy ``Rotation.from_euler("ZYZ",
    [rot, tilt, psi]).as_matrix().T``.  Stored as the quaternion (x, y, z, w) of A.  The ideal image is
    ``b(y) = int f(A^T (y + tau e3)) dtau``, in voxels; its Fourier transform is the central slice
    ``F(e1 w1 + e2 w2)``.
    ``shift`` t (x, y) moves the particle in the image: ``image(j) = projection(j - t)``, so
    ``t = -(rlnOriginX, rlnOriginY)``.

Sign
    Matter is positive, in maps and in stored images.  The CTF is ``sin(chi)`` with ``CTF(0) =
    +amplitude_contrast``; underfocus is positive.

Fourier
    ``F(w) = sum_j f[j] exp(-i w.j)`` with j counted from the centre; the inverse carries ``1/n^d``.
    A noise spectrum is ``E|F|^2 / n^2`` of an image: white noise of variance v has the spectrum v.

SNR
    Variance of the clean, CTF-affected image over the whole frame, divided by the variance of the noise.
    ``power`` takes the mean square instead (thesis, section 4.2).  dB is ``10 log10``.

FSC
    Shell k holds the Fourier voxels with ``round(|q|) == k`` (q in cycles per box); resolution is the first
    crossing, linearly interpolated.
"""
