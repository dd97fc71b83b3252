"""The fast kernel against direct sums: over its own lattice, and over the circular detector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest

from dcryo.imaging.particles import Optics
from dcryo.operators.kernel import padded_length
from dcryo.operators.normal import Convolution
from tests_support import SPREADING, accumulate, lags, relative
