# SPDX-License-Identifier: GPL-2.0-or-later
"""The TLB sanitizer on a whole machine: a kernel of twenty instructions that moves a page, and
invalidates rightly, wrongly, or not at all. Its exit code is what it then reads: 1 from the old
frame, 2 from the new one."""

from __future__ import annotations

import json

import pytest

from emu.cli import main
from emu.errors import UsageError
from emu.machine import Machine
from emu.outcome import Kind

# mov dword [0x300000], 1; mov dword [0x301000], 2       the two frames
# mov dword [0x201000], 0x300003                         the page's entry
# mov dword [0x200000], 0x83; mov dword [0x200400], 0x201003
# CR4.PSE; CR3 = 0x200000; CR0.PG and WP
# mov eax, [0x40000000]                                  filled
# mov dword [0x180000], 0x40000000                       a variable that holds the address
# mov dword [0x201000], 0x301003                         moved
_BEFORE = (
    "c7050000300001000000 c7050010300002000000 c7050010200003003000 c7050000200083000000"
    "c7050004200003102000 0f20e083c8100f22e0 b8000020000f22d8 0f20c00d000001800f22c0"
    "a100000040 c7050000180000000040 c7050010200003103000"
)
_AFTER = "a100000040 e6f4 f4"  # mov eax, [0x40000000]; out 0xf4, al; hlt
INVALIDATIONS = {
    "right": "0f013d00000040",  # invlpg [0x40000000]
    "wrong": "0f013d00001800",  # invlpg [0x180000]
    "none": "90",
    "CR3": "0f20d80f22d8",  # mov eax, cr3; mov cr3, eax
}


def kernel(invalidation):
    return bytes.fromhex(_BEFORE + INVALIDATIONS[invalidation] + _AFTER)


def machine(invalidation, **options):
    return Machine(kernel(invalidation), format="flat32", memory=4 << 20, **options)


@pytest.mark.parametrize("invalidation", ["right", "CR3"])
def test_a_kernel_that_invalidates_has_no_findings(invalidation):
    for tlb in ("fresh", "lazy", "eager"):
        with machine(invalidation, tlb_check="report", tlb=tlb) as m:
            assert m.run(timeout=60).guest_code == 2
            assert m.tlb_check.findings == []


@pytest.mark.parametrize(
    ("invalidation", "hint"),
    [
        ("wrong", "0x180000, the address of the variable that holds 0x40000000"),
        ("none", "nothing was flushed"),
    ],
)
def test_a_kernel_that_does_not_is_told_so(invalidation, hint):
    with machine(invalidation, tlb_check="report") as m:
        assert m.run(timeout=60).guest_code == 2
        (finding,) = m.tlb_check.findings
        assert finding.kind.value == "stale-remap"
        assert (finding.gva, finding.frame, finding.fresh_frame) == (0x4000_0000, 0x300, 0x301)
        assert finding.word == 0x20_1000
        assert hint in finding.hint
        code = kernel(invalidation)
        assert m.phys[finding.user.rip : finding.user.rip + 5] == bytes.fromhex("a100000040")
        assert finding.user.rip == 0x10_0000 + len(code) - 8
        writer = finding.writer.rip
        assert m.phys[writer : writer + 6] == bytes.fromhex("c70500102000")
        assert finding.filled.rip < writer < finding.user.rip


@pytest.mark.parametrize(("tlb", "read"), [("lazy", 1), ("eager", 2), ("fresh", 2)])
def test_the_worst_legal_processor_reads_the_old_frame(tlb, read):
    with machine("none", tlb=tlb) as m:
        assert m.run(timeout=60).guest_code == read


def test_strict_stops_at_the_first_error():
    with machine("none", tlb_check="strict") as m:
        outcome = m.run(timeout=60)
        assert (outcome.kind, outcome.exit_code) == (Kind.FINDING, 10)
        assert len(m.tlb_check.errors) == 1


def test_what_is_owed_at_the_end_is_listed():
    with machine("none", tlb="lazy") as m:
        m.run(timeout=60)
        (line,) = m.tlb_check.obligations()
        assert line.startswith("cpu0 0x40000000: level 1 entry at 0x201000")


def test_another_plug_in_is_refused():
    with pytest.raises(UsageError, match="an MMU of its own"):
        machine("none", tlb_check="report", mmu="uncached")


def test_the_command_line_reports_as_text_and_json(tmp_path, capsys):
    image, report = tmp_path / "kernel.bin", tmp_path / "report.json"
    image.write_bytes(kernel("wrong"))
    words = ["run", str(image), "--format", "flat32", "-m", "4", "-display", "none"]
    assert main([*words, "--tlb-check", "strict", "--json", str(report)]) == 10
    assert "ERROR tlb stale-remap" in capsys.readouterr().err
    (finding,) = json.loads(report.read_text(encoding="utf-8"))["tlb_findings"]
    assert (finding["class"], finding["level"]) == ("stale-remap", "error")
    assert finding["gva"] == 0x4000_0000
    assert {"symbol", "rip", "file", "line"} <= finding["writer"].keys() & finding["user"].keys()
    assert {"also", "hint", "cpu", "position"} <= finding.keys()
