# SPDX-License-Identifier: GPL-2.0-or-later
"""What follows from a fault in the delivery of another event: SDM 3A table 6-5, row by row."""

from __future__ import annotations

import pytest

from emu.cpu.faults import Event, Fault, Shutdown, Source, combine

BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE = 6, 13, 14, 8


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(BENIGN, BENIGN, BENIGN, id="benign, benign: serially"),
        pytest.param(BENIGN, CONTRIBUTORY, CONTRIBUTORY, id="benign, contributory: serially"),
        pytest.param(BENIGN, PAGE_FAULT, PAGE_FAULT, id="benign, page fault: serially"),
        pytest.param(CONTRIBUTORY, BENIGN, BENIGN, id="contributory, benign: serially"),
        pytest.param(CONTRIBUTORY, CONTRIBUTORY, DOUBLE, id="contributory twice: double fault"),
        pytest.param(CONTRIBUTORY, PAGE_FAULT, PAGE_FAULT, id="contributory, page fault: serially"),
        pytest.param(PAGE_FAULT, BENIGN, BENIGN, id="page fault, benign: serially"),
        pytest.param(PAGE_FAULT, CONTRIBUTORY, DOUBLE, id="page fault, contributory: double fault"),
        pytest.param(PAGE_FAULT, PAGE_FAULT, DOUBLE, id="page fault twice: double fault"),
        pytest.param(0, 10, DOUBLE, id="#DE, #TS: double fault"),
        pytest.param(11, 12, DOUBLE, id="#NP, #SS: double fault"),
    ],
)
def test_second_exception(first: int, second: int, expected: int) -> None:
    assert combine(Event(first), Fault(second)).vector == expected


@pytest.mark.parametrize("second", [0, 10, 11, 12, 13, 14])
def test_fault_in_a_double_fault_is_shutdown(second: int) -> None:
    with pytest.raises(Shutdown):
        combine(Event(DOUBLE, error_code=0), Fault(second))


@pytest.mark.parametrize("source", [Source.EXTERNAL, Source.SOFTWARE])
def test_interrupts_are_benign_whatever_their_vector(source: Source) -> None:
    event = combine(Event(13, source), Fault(13, 0x6A))
    assert event == Event(13, Source.EXCEPTION, 0x6A)


def test_double_fault_has_error_code_zero_and_keeps_cr2() -> None:
    assert combine(Event(14, error_code=2, cr2=1), Fault(14, 3, 0x1234)) == Event(
        8, Source.EXCEPTION, 0, 0x1234
    )
