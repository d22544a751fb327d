# SPDX-License-Identifier: GPL-2.0-or-later
"""What each packet gets for an answer, on a machine that is none."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET

import pytest

from emu.debug.gdb.protocol import MOST_BYTES, escape, frame, unescape
from emu.debug.gdb.registers import view_for_bits
from emu.outcome import Kind
from tests.emu.debug.gdb.fake_target import SIZE, VIRTUAL, Rig, stop


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.connect()
    return rig


# --- Coming and going -----------------------------------------------------------------------------


def test_supported_features_are_those_that_scripts_ask_for(rig):
    features = rig.connect().split(b";")
    for feature in (b"vContSupported+", b"multiprocess+", b"hwbreak+", b"QStartNoAckMode+"):
        assert feature in features
    assert b"exec-events+" in features
    assert b"PacketSize=4000" in features


def test_exec_events_are_offered_to_who_takes_them_and_follows():
    assert b"exec-events+" not in Rig().connect(b"multiprocess+")
    assert b"exec-events+" not in Rig(arch="i386").connect()


@pytest.mark.parametrize(
    "packet", [b"vMustReplyEmpty", b"qSymbol::", b"qOffsets", b"y", b"", b"\xff"]
)
def test_what_is_not_known_gets_the_empty_reply(rig, packet):
    assert rig.ask(packet) == b""


def test_each_packet_is_acknowledged_until_that_is_switched_off(rig):
    rig.sent.clear()
    rig.session.receive(frame(b"QStartNoAckMode"))
    assert bytes(rig.sent) == b"+" + frame(b"OK")
    rig.sent.clear()
    rig.session.receive(frame(b"qC"))
    assert bytes(rig.sent) == frame(b"QCp1.1")


def test_a_damaged_packet_is_asked_for_again_and_a_lost_reply_sent_again(rig):
    rig.sent.clear()
    rig.session.receive(b"$qC#00")
    assert bytes(rig.sent) == b"-"
    rig.session.receive(frame(b"qC"))
    rig.sent.clear()
    rig.session.receive(b"-")
    assert bytes(rig.sent) == frame(b"QCp1.1")


def test_detach_removes_the_points_and_lets_the_machine_run(rig):
    rig.ask(b"Z0,1000,1")
    assert rig.ask(b"D;1") == b"OK"
    assert not rig.session.is_open
    assert rig.target.points == {}
    assert rig.control.is_running
    assert rig.control.holders == 0


def test_a_lost_debugger_leaves_the_machine_standing(rig):
    rig.ask(b"Z1,1000,1")
    rig.session.receive(b"$m0,")
    rig.session.close()
    assert rig.target.points == {}
    assert not rig.control.is_running


@pytest.mark.parametrize("packet", [b"k", b"vKill;1"])
def test_kill_ends_the_run(rig, packet):
    rig.ask(packet)
    assert rig.control.run().kind is Kind.POWER_OFF


def test_restart_resets_the_machine(rig):
    assert rig.ask(b"!") == b"OK"
    assert rig.ask(b"R00") == b"none"
    assert rig.target.log == ["restart"]


# --- Registers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_the_description_numbers_registers_as_they_are_sent(bits):
    view = view_for_bits(bits)
    tree = ET.fromstring(view.xml())
    found = [
        (reg.get("name"), int(reg.get("bitsize")), int(reg.get("regnum")))
        for reg in tree.iter("reg")
    ]
    assert found == [(r.name, r.bits, n) for n, r in enumerate(view.registers)]
    assert len({name for name, _, _ in found}) == len(found)
    known = {"int8", "int16", "int32", "int64", "int", "i387_ext", "data_ptr", "code_ptr"}
    known |= {e.get("id") for kind in ("flags", "union") for e in tree.iter(kind)}
    assert {reg.get("type") for reg in tree.iter("reg")} <= known
    used = {"16": "i8086", "32": "i386", "64": "i386:x86-64"}[str(bits)]
    assert tree.findtext("architecture") == used


def test_the_first_608_bytes_are_qemus():
    names = [r.name for r in view_for_bits(64).registers]
    first = view_for_bits(64).registers[: names.index("mxcsr") + 1]
    assert sum(r.size for r in first) == 608
    text = "rip eflags cs ss ds es fs gs fs_base gs_base k_gs_base cr0 cr2 cr3 cr4 cr8 efer"
    assert " ".join(names[16:33]) == text


def test_registers_are_read_one_by_one_and_all_together(rig):
    rig.target.registers[0, "rbx"] = 0x1122334455667788
    assert rig.ask(b"p1") == b"8877665544332211"
    everything = rig.ask(b"g")
    assert everything[16:32] == b"8877665544332211"
    assert len(everything) == 2 * sum(r.size for r in view_for_bits(64).registers)


def test_registers_of_the_chosen_thread(rig):
    assert rig.ask(b"Hgp1.2") == b"OK"
    assert rig.ask(b"p10") == b"7856000000000000"


def test_a_register_is_written(rig):
    assert rig.ask(b"P0=0100000000000000") == b"OK"
    assert rig.target.registers[0, "rax"] == 1


def test_what_cannot_be_written_may_be_written_back(rig):
    everything = rig.ask(b"g")
    assert rig.ask(b"G" + everything) == b"OK"
    last = len(view_for_bits(64).registers) - 1
    assert rig.ask(b"P%x=0100000000000000" % last) == b"E16"


def test_a_narrow_view_keeps_the_upper_half():
    rig = Rig(arch="i386")
    rig.connect()
    rig.target.registers[0, "rax"] = 0xAAAA_BBBB_0000_0000
    assert rig.ask(b"P0=01000000") == b"OK"
    assert rig.target.registers[0, "rax"] == 0xAAAA_BBBB_0000_0001


@pytest.mark.parametrize("packet", [b"pffff", b"p", b"P0=00", b"P0", b"Pzz=00", b"G0", b"p-1"])
def test_registers_that_are_none(rig, packet):
    assert rig.ask(packet) == b"E16"


# --- Memory ---------------------------------------------------------------------------------------


def test_memory_is_read_over_pages_and_up_to_its_end(rig):
    assert rig.ask(b"mffe,4") == b"feff0001"
    assert rig.ask(b"m%x,8" % (SIZE - 2)) == b"feff"
    assert rig.ask(b"m%x,8" % SIZE) == b"E0e"
    assert rig.ask(b"m%x,2" % (VIRTUAL + 5)) == b"0506"
    assert rig.ask(b"m0,0") == b""


def test_physical_mode_looks_at_physical_memory(rig):
    assert rig.ask(b"qqemu.PhyMemMode") == b"0"
    assert rig.ask(b"Qqemu.PhyMemMode:1") == b"OK"
    assert rig.ask(b"qqemu.PhyMemMode") == b"1"
    assert rig.ask(b"m%x,2" % (VIRTUAL + 5)) == b"E0e"
    assert rig.ask(b"m5,2") == b"0506"


def test_memory_is_written_all_or_not_at_all(rig):
    assert rig.ask(b"Mffe,4:aabbccdd") == b"OK"
    assert rig.target.memory[0xFFE:0x1002] == b"\xaa\xbb\xcc\xdd"
    before = bytes(rig.target.memory)
    assert rig.ask(b"M%x,4:01020304" % (SIZE - 2)) == b"E0e"
    assert bytes(rig.target.memory) == before


def test_memory_is_written_in_binary(rig):
    data = b"}#$*\x03\x00"
    assert rig.ask(b"X10,6:" + escape(data)) == b"OK"
    assert rig.target.memory[0x10:0x16] == data
    assert rig.ask(b"X0,0:") == b"OK"


@pytest.mark.parametrize(
    "packet",
    [b"m", b"m0", b"m0,", b"m,4", b"m0,ffffffff", b"M0,2:00", b"M0,1:0", b"X0,4:abc", b"X0,1:}"],
)
def test_memory_packets_that_make_no_sense(rig, packet):
    assert rig.ask(packet) == b"E16"


def test_a_read_at_the_top_of_the_address_space_ends(rig):
    assert rig.ask(b"mffffffffffffffff,1000") == b"E0e"


# --- Points ---------------------------------------------------------------------------------------


def test_points_are_inserted_once(rig):
    for _ in range(2):
        assert rig.ask(b"Z0,1000,1") == b"OK"
        assert rig.ask(b"Z2,2000,8") == b"OK"
    assert list(rig.target.points.values()) == [(0x1000, 1, "execute"), (0x2000, 8, "write")]
    assert rig.ask(b"z0,1000,1") == b"OK"
    assert rig.ask(b"z0,1000,1") == b"OK"
    assert list(rig.target.points.values()) == [(0x2000, 8, "write")]
    assert rig.target.memory[0x1000] == 0  # nothing was written


@pytest.mark.parametrize("packet", [b"Z5,0,1", b"Z0", b"Z2,0,0", b"Z2,0,ffffff", b"Z0,x,1"])
def test_points_that_are_none(rig, packet):
    assert rig.ask(packet) == b"E16"


def test_the_number_of_points_is_bounded(rig):
    replies = {rig.ask(b"Z0,%x,1" % address) for address in range(1100)}
    assert replies == {b"OK", b"E1c"}


# --- Running --------------------------------------------------------------------------------------


def test_a_step_of_one_thread(rig):
    rig.target.stops = [stop(Kind.STEP, 1)]
    assert rig.run(b"vCont;s:p1.2;c:p1.-1") == b"T05thread:p1.2;"
    assert rig.target.log == [("step", 1)]
    assert rig.ask(b"?") == b"T05thread:p1.2;"


def test_the_older_packets_step_and_go_on(rig):
    rig.target.stops = [stop(Kind.STEP), stop(Kind.STEP, 1), stop(Kind.BREAKPOINT)]
    assert rig.run(b"s") == b"T05thread:p1.1;"
    rig.ask(b"Hc2")
    assert rig.run(b"S05") == b"T05thread:p1.2;"
    assert rig.run(b"c4321") == b"T05thread:p1.1;"
    assert rig.target.log == [("step", 0), ("step", 1), "resume"]
    assert rig.target.registers[1, "pc"] == 0x4321


def test_a_range_is_stepped_through_without_a_word(rig):
    rig.target.stops = [stop(Kind.STEP) for _ in range(3)]
    places = iter((0x1004, 0x1008, 0x2000))
    rig.target.read_register = lambda cpu, name: next(places)
    assert rig.run(b"vCont;r1000,1010:p1.1;c") == b"T05thread:p1.1;"
    assert rig.target.log == [("step", 0)] * 3


def test_why_it_stopped(rig):
    rig.ask(b"Z0,1000,1")
    rig.ask(b"Z1,2000,1")
    rig.ask(b"Z2,3000,4")
    rig.ask(b"Z4,4000,4")
    rig.target.stops = [
        stop(Kind.BREAKPOINT, 0, point=1, address=0x1000),
        stop(Kind.BREAKPOINT, 1, point=2, address=0x2000),
        stop(Kind.WATCHPOINT, 0, point=3, address=0x3001, access="write"),
        stop(Kind.WATCHPOINT, 0, point=4, address=0x4000, access="read"),
    ]
    assert rig.run(b"vCont;c") == b"T05swbreak:;thread:p1.1;"
    assert rig.run(b"vCont;c") == b"T05hwbreak:;thread:p1.2;"
    assert rig.run(b"vCont;c") == b"T05watch:3001;thread:p1.1;"
    assert rig.run(b"vCont;c") == b"T05awatch:4000;thread:p1.1;"


def test_ctrl_c_stops_a_running_machine_only(rig):
    assert rig.say(b"\x03") == []
    rig.ask(b"vCont;c")
    assert rig.control.is_running
    assert rig.say(b"\x03") == [b"T02thread:p1.1;"]
    assert not rig.control.is_running


@pytest.mark.parametrize(
    ("kind", "code", "reply"),
    [(Kind.GUEST_EXIT, 16, b"W21;process:1"), (Kind.POWER_OFF, None, b"W00;process:1")],
)
def test_the_end_of_the_run_is_the_end_of_the_process(rig, kind, code, reply):
    rig.target.stops = [stop(kind, guest_code=code)]
    assert rig.run(b"vCont;c") == reply


def test_a_triple_fault_can_be_looked_at(rig):
    rig.target.stops = [stop(Kind.TRIPLE_FAULT, 1)]
    text, reply = rig.run(b"vCont;c").split(b"|")
    assert bytes.fromhex(text[1:].decode()) == b"shadowcorn: triple fault\n"
    assert reply == b"T0bthread:p1.2;"
    assert rig.ask(b"m0,1") == b"00"
    assert rig.ask(b"vCont;c") == b"W04;process:1"
    assert rig.control.run().kind is Kind.TRIPLE_FAULT


@pytest.mark.parametrize(
    "packet", [b"vCont", b"vCont;x", b"vCont;s:p1.9", b"vCont;s:p2.1", b"vCont;r:p1.1"]
)
def test_resumes_that_make_no_sense_resume_nothing(rig, packet):
    assert rig.ask(packet) == b"E16"
    assert not rig.control.is_running


# --- Modes ----------------------------------------------------------------------------------------


def test_a_switch_of_modes_is_an_exec_and_then_the_stop():
    rig = Rig([stop(Kind.BREAKPOINT, 0), stop(Kind.STEP, 0)], kernel="/k.elf")
    rig.target.code_bits = [16, 16]
    rig.session.close()
    rig = Rig(rig.target.stops, kernel="/k.elf")
    assert b"i386:x86-64" in rig.ask(b"qXfer:features:read:target.xml:0,1000")
    rig.connect()
    rig.target.code_bits = [32, 32]
    path = b"/k.elf".hex().encode()
    assert rig.run(b"vCont;c") == b"T05exec:%s;thread:p1.1;" % path
    assert b"<architecture>i386<" in rig.ask(b"qXfer:features:read:target.xml:0,1000")
    assert rig.ask(b"vCont;c") == b"T05thread:p1.1;"  # the real stop, and nothing ran
    assert rig.target.log == ["resume"]
    assert rig.run(b"vCont;s:p1.1;c") == b"T05thread:p1.1;"


def test_whoever_takes_no_exec_events_keeps_the_first_description():
    rig = Rig([stop(Kind.STEP, 0)])
    rig.connect(b"multiprocess+")
    rig.target.code_bits = [16, 16]
    assert rig.run(b"vCont;s:p1.1") == b"T05thread:p1.1;"
    assert b"i386:x86-64" in rig.ask(b"qXfer:features:read:target.xml:0,1000")


# --- Threads and queries --------------------------------------------------------------------------


def test_vcpus_are_threads(rig):
    assert rig.ask(b"qfThreadInfo") == b"mp1.1,p1.2"
    assert rig.ask(b"qsThreadInfo") == b"l"
    assert rig.ask(b"Tp1.2") == b"OK"
    assert rig.ask(b"Tp1.3") == b"E16"
    info = rig.ask(b"qThreadExtraInfo,p1.2")
    assert bytes.fromhex(info.decode()) == b"CPU#1 [halted]"


def test_threads_without_processes():
    rig = Rig()
    rig.connect(b"")
    assert rig.ask(b"qfThreadInfo") == b"m1,2"
    assert rig.ask(b"qC") == b"QC1"


def test_the_description_comes_in_pieces(rig):
    data, offset = b"", 0
    while True:
        reply = rig.ask(b"qXfer:features:read:target.xml:%x,200" % offset)
        data += reply[1:]
        offset = len(data)
        if reply[:1] == b"l":
            break
    assert data == view_for_bits(64).xml()
    assert rig.ask(b"qXfer:features:read:other.xml:0,10") == b"E16"
    assert rig.ask(b"qXfer:features:read:target.xml:ffffffff,10") == b"l"


def test_threads_as_a_document(rig):
    reply = rig.ask(b"qXfer:threads:read::0,1000")
    tree = ET.fromstring(unescape(reply[1:]))
    assert [thread.get("id") for thread in tree] == ["p1.1", "p1.2"]


def test_what_scripts_ask_qemu(rig):
    assert rig.ask(b"qqemu.sstepbits") == b"ENABLE=1,NOIRQ=2,NOTIMER=4"
    assert rig.ask(b"qqemu.sstep") == b"0x7"
    assert rig.ask(b"Qqemu.sstep:5") == b"OK"
    assert rig.ask(b"qAttached:1") == b"1"


def test_monitor_commands_show_their_text():
    rig = Rig(monitor=lambda command, cpu: f"{command} on {cpu}")
    rig.connect()
    replies = rig.say(frame(b"qRcmd," + b"info mem".hex().encode()))
    assert bytes.fromhex(replies[0][1:].decode()) == b"info mem on 0\n"
    assert replies[1] == b"OK"


def test_a_long_text_comes_in_packets_that_fit():
    rig = Rig(monitor=lambda command, cpu: "x" * 50_000)
    replies = rig.say(frame(b"qRcmd,00"))
    assert len(replies) > 3
    assert all(len(reply) <= MOST_BYTES for reply in replies)
    text = b"".join(bytes.fromhex(reply[1:].decode()) for reply in replies[:-1])
    assert text == b"x" * 50_000 + b"\n"


# --- /proc/1/maps ---------------------------------------------------------------------------------


def test_the_mappings_are_a_file():
    rig = Rig(maps=lambda cpu: b"1000-2000 r-xp 00000000 00:00 0\n" * 3)
    rig.connect()
    name = b"/proc/1/maps".hex().encode()
    assert b"GNU/Linux" in rig.ask(b"qXfer:features:read:target.xml:0,1000")
    assert rig.ask(b"vFile:setfs:0") == b"F0"
    assert rig.ask(b"vFile:open:" + name + b",0,0") == b"F3"
    assert rig.ask(b"vFile:pread:3,4,5") == b"F4;2000"
    assert rig.ask(b"vFile:pread:3,1000,ffff") == b"F0;"
    assert rig.ask(b"vFile:close:3") == b"F0"
    assert rig.ask(b"vFile:close:3") == b"F-1,9"
    assert rig.ask(b"vFile:open:" + b"/etc/passwd".hex().encode() + b",0,0") == b"F-1,2"


def test_without_them_there_are_no_files(rig):
    assert rig.ask(b"vFile:open:2f,0,0") == b""


# --- Anything at all ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_no_packet_makes_trouble(seed):
    draw = random.Random(seed)
    heads = (
        b"? c C D g G H m M p P q Q R s S T v X z Z vCont vCont? vFile: qXfer: Hg Hc Qqemu. qRcmd,"
    )
    rig = Rig(maps=lambda cpu: b"maps", monitor=lambda command, cpu: command)
    rig.connect()
    for _ in range(3000):
        if not rig.session.is_open:
            rig = Rig(maps=lambda cpu: b"maps", monitor=lambda command, cpu: command)
        rest = bytes(
            draw.choice(b"0123456789abcdef,;:-.=pscrt}\x00\xff") for _ in range(draw.randrange(24))
        )
        for reply in rig.say(frame(draw.choice(heads.split()) + rest)):
            assert len(reply) <= MOST_BYTES
        rig.control.hold()
        rig.target.stops.clear()
