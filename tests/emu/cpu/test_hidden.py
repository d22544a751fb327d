# SPDX-License-Identifier: GPL-2.0-or-later
"""Calibration: found on this Unicorn, and refused with a clear word on a strange one."""

from __future__ import annotations

import ctypes

import pytest

from emu.cpu import calibration, hidden, raw
from emu.errors import CalibrationError


def test_layout_is_found_once() -> None:
    assert calibration.layout() is calibration.layout()


def test_live_view_shows_what_the_interface_sets() -> None:
    handle = raw.open_engine(raw.MODEL_ICELAKE_SERVER)
    try:
        state = hidden.HiddenState(handle, calibration.layout())
        raw.reg_write(handle, raw.RCX, 0x0123_4567_89AB_CDEF)
        state.q[3] = 0xFEDC_BA98
        assert state.q[1] == 0x0123_4567_89AB_CDEF
        assert raw.reg_read(handle, raw.RBX) == 0xFEDC_BA98
    finally:
        raw.close(handle)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        pytest.param("RIP_Q", hidden.RIP_Q + 1, id="rip elsewhere"),
        pytest.param("SEGS_D", hidden.SEGS_D + 2, id="segments elsewhere"),
        pytest.param("LSTAR_Q", hidden.LSTAR_Q + 1, id="msr elsewhere"),
        pytest.param("VENDOR_D", hidden.VENDOR_D + 1, id="cpuid words elsewhere"),
        pytest.param("INTERCEPT_Q", hidden.INTERCEPT_Q + 2, id="intercepts elsewhere"),
        pytest.param("ERROR_CODE_D", hidden.IS_INT_D, id="error code elsewhere"),
        pytest.param("_EXCEPTION_INDEX_BACK", 4, id="exception index elsewhere"),
        pytest.param("_INTERRUPT_REQUEST_AHEAD", 12, id="interrupt request elsewhere"),
        pytest.param("_EXIT_REQUEST_BACK", 4, id="exit request elsewhere"),
    ],
)
def test_strange_layout_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, wrong: int) -> None:
    monkeypatch.setattr(hidden if hasattr(hidden, name) else calibration, name, wrong)
    with pytest.raises(CalibrationError, match=f"Unicorn {raw.version()}.*2.1.4"):
        calibration.layout.__wrapped__()


def test_reading_where_nothing_is_mapped_is_harmless() -> None:
    read = calibration._reader()
    assert read(0x10, 64) == b""
    box = ctypes.create_string_buffer(b"here", 4)
    assert read(ctypes.addressof(box), 4) == b"here"


def test_flag_that_spares_looks_at_orders_to_stop_is_found_and_works() -> None:
    assert calibration.layout().uc_no_exit_request > calibration.layout().uc_invalid_addr


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        pytest.param("_FLAGS_AHEAD", 46, id="init_done"),
        pytest.param("_FLAGS_AHEAD", 32, id="another byte"),
        pytest.param("_PAGE_SIZES", b"no such sizes", id="nowhere"),
    ],
)
def test_without_that_flag_all_else_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: int | bytes
) -> None:
    monkeypatch.setattr(calibration, name, wrong)
    layout = calibration.layout.__wrapped__()
    assert layout.uc_no_exit_request == -1
    assert layout.uc_emu_counter == calibration.layout().uc_emu_counter
