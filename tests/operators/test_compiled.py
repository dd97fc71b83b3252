"""The thread pool runs every item once, and errors come back."""

from __future__ import annotations

import threading

import numba
import numpy as np
import pytest

from dcryo.operators.compiled import compile_kernel, for_each, slabs, thread_count


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_every_item_is_worked_on_once(threads: int) -> None:
    seen = np.zeros(100, int)

    def work(item: int) -> None:
        seen[item] += 1

    for_each(work, range(100), threads)
    assert (seen == 1).all()


@pytest.mark.parametrize(("items", "threads"), [(3, 1), (1, 3)])
def test_one_thread_or_one_item_is_the_callers_own(items: int, threads: int) -> None:
    names = set()
    for_each(lambda _: names.add(threading.current_thread().name), range(items), threads)
    assert names == {threading.current_thread().name}


def test_slabs_of_a_volume_and_of_one_on_a_gpu() -> None:
    class FromCupy:
        __module__ = "cupy"

        def __len__(self) -> int:
            return 20

    assert slabs(np.zeros((20, 2)), 8) == [slice(0, 8), slice(8, 16), slice(16, 20)]
    assert slabs(FromCupy(), 8) == [slice(0, 20)]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_the_work_reaches_the_caller(threads: int) -> None:
    def work(item: int) -> None:
        if item == 7:
            raise ZeroDivisionError("item seven")

    with pytest.raises(ZeroDivisionError, match="item seven"):
        for_each(work, range(10), threads)


def test_thread_count() -> None:
    assert thread_count(3) == 3
    assert thread_count() >= 1


def test_compiling_leaves_numba_as_it_was() -> None:
    before = numba.config.SLP_VECTORIZE
    twice = compile_kernel("f8(f8)")(lambda x: 2 * x)
    assert twice(1.5) == 3.0
    assert before == numba.config.SLP_VECTORIZE
