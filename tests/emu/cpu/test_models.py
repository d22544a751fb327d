# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU models: QEMU's own table, what CPUID says, and that what a model lacks is really gone."""

from __future__ import annotations

import struct

import pytest

from emu.cpu.cpuid import FEATURE_NAMES, OURS, can_be_had
from emu.cpu.models import DATA, canonical, find_model, model_names

from ..beside import EXIT, boot_sector, here, needs_qemu, under_qemu
from .machine_double import Rig
from .qemu_models import ask_qemu, text_of

UD, GP = 6, 13
MODELS = (
    "486", "pentium", "pentium2", "pentium3", "athlon", "qemu32", "qemu64", "kvm32", "kvm64",
    "coreduo", "core2duo", "n270", "Conroe", "Penryn", "Nehalem", "Westmere", "SandyBridge",
    "IvyBridge", "Haswell", "Haswell-noTSX-IBRS", "Broadwell", "Skylake-Client", "Skylake-Server",
    "Cascadelake-Server", "Cooperlake", "Icelake-Server", "SapphireRapids", "Denverton",
    "Snowridge", "KnightsMill", "Opteron_G1", "Opteron_G2", "Opteron_G3", "Opteron_G4",
    "Opteron_G5", "phenom", "EPYC", "EPYC-Rome", "EPYC-Milan", "Dhyana",
)  # fmt: skip
SOME = ("486", "pentium3", "qemu32", "qemu64", "core2duo", "Nehalem", "Haswell", "EPYC")


# --- The table ------------------------------------------------------------------------------------


@needs_qemu
def test_the_table_is_what_qemu_answers():
    asked = ask_qemu()
    if "QEMU 7.2" not in asked["source"]:
        pytest.skip(f"the table is QEMU 7.2's, here is {asked['source']}")
    assert DATA.read_text(encoding="utf-8") == text_of(asked)


@pytest.mark.parametrize("name", [m for m in MODELS if m != "SapphireRapids"])
def test_a_model_of_qemus_is_known_in_any_case(name):
    model = find_model(name)
    assert model == find_model(name.upper()) == find_model(f"{name}-x86_64-cpu")
    assert name in model_names()


@pytest.mark.parametrize("name", ["Skylark", "", "Haswell-v9"])
def test_others_are_not(name):
    assert find_model(name) is None


def test_what_a_model_has_is_on_or_missing():
    model = find_model("Haswell")
    assert {"pcid", "avx2", "fma"} < set(model.missing)
    assert model.switches["smep"] and model.switches["sse3"]
    assert not model.switches["smap"] and not model.switches["pku"]
    assert set(model.switches) == set(FEATURE_NAMES)
    assert not any(on for name, on in model.switches.items() if not can_be_had(name))
    assert "smap" in {flag for flag, on in find_model("Broadwell").switches.items() if on}


@pytest.mark.parametrize(
    ("spelled", "name"),
    [("SSE4_2", "sse4.2"), ("pni", "sse3"), ("xd", "nx"), ("i64", "lm"), ("lahf_lm", "lahf-lm"),
     ("pclmuldq", "pclmulqdq"), ("avx512bw", "avx512bw"), ("warp", None)],
)  # fmt: skip
def test_flags_have_many_spellings(spelled, name):
    assert canonical(spelled) == name


def test_ours_is_who_the_engine_says_it_is():
    """So that `-cpu max,stepping=3` changes nothing but the stepping."""
    plain, named = Rig(), Rig(identity=OURS)
    named.long("cpuid")
    for leaf in (0, 1, 0x8000_0000, 0x8000_0001, 0x8000_0002, 0x8000_0003, 0x8000_0004):
        answers = []
        for rig in (plain, named):
            rig.long("cpuid")
            rig.regs.rax, rig.regs.rcx = leaf, 0
            rig.run()
            answers.append([rig.regs.rax, rig.regs.rbx, rig.regs.rcx, rig.regs.rdx])
        assert answers[0] == answers[1], hex(leaf)
    plain.close()
    named.close()


# --- Beside QEMU ----------------------------------------------------------------------------------

LEAVES = (0, 1, 2, 4, 7, 0x8000_0000, *range(0x8000_0001, 0x8000_0005), 0x8000_0007, 0xFFFF)
_TABLE = 0x40
_DUMP = (
    bytes.fromhex("31c0 8ed8 8ec0 fc be407c bf0080 bd")  # ds = es = 0; si = table, di = 8000h
    + struct.pack("<H", len(LEAVES))
    + bytes.fromhex("66ad 6631c9 0fa2 66ab 6689d8 66ab 6689c8 66ab 6689d0 66ab 4d 75e5")
    + bytes.fromhex("be0080 bae900 b9")
    + struct.pack("<H", 16 * len(LEAVES))
    + b"\xf3\x6e"  # rep outsb
    + EXIT
)
DUMP = boot_sector(_DUMP.ljust(_TABLE, b"\0") + struct.pack(f"<{len(LEAVES)}I", *LEAVES))


def leaves(raw: bytes) -> dict[int, list[int]]:
    assert len(raw) == 16 * len(LEAVES)
    words = struct.unpack(f"<{4 * len(LEAVES)}I", raw)
    return {leaf: list(words[4 * i : 4 * i + 4]) for i, leaf in enumerate(LEAVES)}


def mask_of(names, word: int) -> int:
    """Bits of a feature word that those names stand for."""
    return sum(1 << bit for name in names for w, bit in [FEATURE_NAMES[name]] if w == word)


@needs_qemu
@pytest.mark.parametrize("name", SOME)
def test_cpuid_is_qemus_where_we_have_the_feature(name, tmp_path):
    model = find_model(name)
    ours = leaves(here(DUMP, cpu_features=model.switches, cpu_identity=model.identity))
    qemus = leaves(under_qemu(tmp_path, DUMP, "-cpu", name))
    known = {n for n in FEATURE_NAMES if can_be_had(n)}
    tcg_lacks = {"x2apic", "tsc-deadline", "rdseed"}  # cut from the models by QEMU 7.2
    for leaf in (0, 0x8000_0000, 0x8000_0002, 0x8000_0003, 0x8000_0004):
        assert ours[leaf] == qemus[leaf], hex(leaf)
    assert ours[1][0] == qemus[1][0]
    for leaf, register, word in (
        (1, 3, 0), (1, 2, 1), (7, 1, 2), (7, 2, 3), (0x8000_0001, 3, 6), (0x8000_0001, 2, 7),
        (0x8000_0007, 3, 8),
    ):  # fmt: skip
        if leaf > (model.identity.xlevel if leaf >> 31 else model.identity.level):
            continue
        mask = mask_of(known - tcg_lacks, word) | (0x0183_F3FF if word == 6 else 0)
        assert ours[leaf][register] & mask == qemus[leaf][register] & mask, (hex(leaf), register)
        assert not ours[leaf][register] & ~mask_of(known, word) & ~mask


# --- What a model lacks is gone -------------------------------------------------------------------

INSTRUCTIONS = {
    "ssse3": "660f3800c1",  # pshufb xmm0, xmm1
    "sse4.1": "660f3817c1",  # ptest xmm0, xmm1
    "sse4.2": "660f3837c1",  # pcmpgtq xmm0, xmm1
    "popcnt": "f30fb8c1",
    "movbe": "0f38f006",
    "aes": "660f38dcc1",
    "pclmulqdq": "660f3a44c100",
    "adx": "660f38f6c1",
    "bmi1": "c4e278f3c8",
    "bmi2": "c4e278f5c1",
    "cx8": "0fc70e",
    "cx16": "480fc70e",
    "cmov": "0f44c1",
    "rdtscp": "0f01f9",
    "clflush": "0fae3e",
    "clflushopt": "660fae3e",
    "clwb": "660fae36",
    "fxsr": "0fae06",
    "fsgsbase": "f3480faec0",
    "xsave": "0f01d0",
    "rdrand": "0fc7f1",
    "rdseed": "0fc7f9",
    "smap": "0f01ca",
    "pku": "0f01ee",
    "lahf_lm": "9f",
}
_CR4 = {"fsgsbase": 1 << 16, "xsave": 1 << 18, "pku": 1 << 22}


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_an_instruction_goes_with_its_feature(name, there):
    rig = Rig(features={name: there})
    rig.long("rdmsr")
    rig.put(0x1000, INSTRUCTIONS[name] + "f4")
    rig.regs.cr4 |= 0x600 | (_CR4.get(name, 0) if there else 0)
    rig.regs.rsi, rig.regs.rcx = 0x6000, 0
    rig.run()
    assert [vector for vector, _ in rig.events] == ([] if there else [UD])
    rig.close()


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("name", "bit"),
    [("smep", 20), ("smap", 21), ("pku", 22), ("la57", 12), ("umip", 11), ("fsgsbase", 16),
     ("xsave", 18), ("pge", 7), ("pae", 5), ("fxsr", 9), ("sse", 10), ("pse", 4), ("de", 3),
     ("tsc", 2), ("mce", 6)],
)  # fmt: skip
def test_a_bit_of_cr4_goes_with_its_feature(name, bit, there):
    rig = Rig(features={name: there})
    rig.protected("rdmsr")
    rig.put(0x1000, "0f22e0 f4")  # mov cr4, eax
    rig.regs.rax = rig.regs.cr4 | 1 << bit
    rig.run()
    assert [vector for vector, _ in rig.events] == ([] if there else [GP])
    rig.close()


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(("name", "bit"), [("syscall", 0), ("lm", 8), ("nx", 11)])
def test_a_bit_of_efer_goes_with_its_feature(name, bit, there):
    rig = Rig(features={name: there})
    rig.protected("rdmsr")
    rig.put(0x1000, "0f30 f4")  # wrmsr
    rig.regs.rcx, rig.regs.rax, rig.regs.rdx = 0xC000_0080, 1 << bit, 0
    rig.run()
    assert [vector for vector, _ in rig.events] == ([] if there else [GP])
    rig.close()


@pytest.mark.parametrize("name", ["qemu64", "Nehalem"])
def test_x2apic_mode_needs_the_feature(name):
    """WRMSR of IA32_APIC_BASE with EXTD set (SDM 3A 10.12.1.1) ends in a triple fault."""
    from emu.machine import Machine
    from emu.outcome import Kind

    # mov ecx, 1bh; rdmsr; or ah, 4; wrmsr; mov al, 10h; out 0f4h, al
    code = bytes.fromhex("b91b000000 0f32 80cc04 0f30 b010 e6f4 f4")
    model = find_model(name)
    options = {"cpu_features": model.switches, "cpu_identity": model.identity}
    with Machine(code, format="flat32", memory=1 << 21, **options) as m:
        assert m.run(timeout=60).kind is Kind.TRIPLE_FAULT
    with Machine(code, format="flat32", memory=1 << 21) as m:
        assert m.run(timeout=60).guest_code == 0x10
