"""What tests of the pages share."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

VOID = {"br", "img", "meta"}


class Balanced(HTMLParser):
    """Collects what a browser would have to forgive: tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


@pytest.fixture(scope="session")
def markup_faults() -> Callable[[str], list[str]]:
    """Tags of a page that close what is not open, or stay open."""

    def faults(page: str) -> list[str]:
        reader = Balanced()
        reader.feed(page)
        reader.close()
        return reader.faults + reader.open

    return faults
