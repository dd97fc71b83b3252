"""Experiments of the thesis as benchmarks: each gives one JSON, one picture, and lines that pass or fail.

Only :data:`EXPERIMENTS` is here; the modules it names are imported when they are asked for.
"""

from __future__ import annotations

EXPERIMENTS = {
    "table-4.1": "table_4_1",
    "figure-4.1": "figure_4_1",
    "figure-4.2": "figure_4_2",
    "figure-4.3": "figure_4_3",
    "figure-4.6": "figure_4_6",
    "figure-4.8": "figure_4_8",
    "figure-4.10": "figure_4_10",
    "figure-4.12": "figure_4_12",
    "figure-4.16": "figure_4_16",
}
"""Name of each experiment, after its table or figure in the thesis, and its module in this package."""

COVERED = {
    "figure-4.4": "figure-4.3",
    "figure-4.5": "figure-4.3",
    "figure-4.7": "figure-4.6",
    "figure-4.11": "figure-4.6",
    "figure-4.9": "figure-4.8",
    "figure-4.13": "figure-4.12",
    "figure-4.14": "figure-4.12",
    "figure-4.15": "figure-4.12",
}
"""Figures that another one's experiment makes as well."""
