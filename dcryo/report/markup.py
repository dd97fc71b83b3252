"""Pieces of HTML that the sections of a page share, and numbers as a reader wants them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_SHOWN_ITEMS = 12


def section(title: str, content: str) -> str:
    """A part of the page under its heading."""
    return f"<section><h2>{title}</h2>{content}</section>"


def figure(content: str, caption: str, kind: str = "") -> str:
    """A picture with what it shows; ``kind`` is "wide", "medium" or nothing."""
    return f"<figure class='{kind}'>{content}<figcaption>{caption}</figcaption></figure>"


def setting_rows(values: Any) -> str:
    """Rows of a table of settings, names to the left."""
    if not isinstance(values, Mapping):
        values = {"": values}
    return "".join(
        f"<tr><th>{escape(key.replace('_', ' '))}</th><td>{escape(show_value(key, value))}</td></tr>"
        for key, value in _flat(values)
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of a nested mapping, the inner keys behind the outer ones."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} · ")
        else:
            yield f"{prefix}{key}", value


def show_value(key: str, value: Any) -> str:
    """A setting as text; counts of bytes, known by their key, in kB, MB, GB."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)) and key.endswith("bytes"):
        return show_bytes(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        shown = ", ".join(show_value(key, item) for item in value[:_SHOWN_ITEMS])
        return shown if len(value) <= _SHOWN_ITEMS else f"{shown} … ({len(value):,} in all)"
    return str(value)


def show_bytes(count: float) -> str:
    """A number of bytes to three digits."""
    power = min(int(math.log(count, 1000)), 5) if count >= 1000 else 0
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"


def show_duration(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def sentence_html(sentence: str) -> str:
    """HTML of a sentence whose commands stand between backquotes."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(sentence))
