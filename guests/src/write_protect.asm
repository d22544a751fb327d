; SPDX-License-Identifier: GPL-2.0-or-later
; write_protect: every odd way to write to a live page table (MMU cases 7, 8, 21, 22). Each case
; begins with tables in use and known, writes, and looks through the pages that the entries map.

%include "inc/kernel32.inc"
%include "inc/long.inc"
        org ORIGIN
        bits 32
        MULTIBOOT

PD      equ 0x208000
K32     equ 0x209000
BEFORE  equ 0x20f000                    ; a page of data
T1      equ 0x210000                    ; two tables in a row: 2048 entries, pages from VIEW on
T2      equ 0x211000
AFTER   equ 0x212000                    ; a page of data
T3      equ 0x213000
PML4    equ 0x214000
LPDPT   equ 0x215000
LPD     equ 0x216000
K64     equ 0x217000
TABLES_END equ 0x219000
FRAMES  equ 0x300000                    ; frame n's entry is 0x003nn003
%define FRAME(n) (FRAMES + (n) * 0x1000)
%define ENTRY(n) (FRAME(n) | RW)
VIEW    equ 0x40000000

%define E(i) (T1 + (i) * 4)             ; entry i maps page i of VIEW, frame i

; CASE "what": tables as they were, all looked at.
%macro CASE 1
%define WHAT %1
        call fresh
%endmacro

; SEES page, frame: after INVLPG the page is that frame. STILL: the same without INVLPG.
%macro SEES 2
        invlpg [VIEW + (%1) * 0x1000]
        CHECK [VIEW + (%1) * 0x1000], MARK(%2), WHAT
%endmacro
%macro STILL 2
        CHECK [VIEW + (%1) * 0x1000], MARK(%2), WHAT
%endmacro
%macro GONE 1
        invlpg [VIEW + (%1) * 0x1000]
        FAULTS XPF, 0, VIEW + (%1) * 0x1000 + 4, WHAT, mov eax, [VIEW + (%1) * 0x1000 + 4]
%endmacro

start:  KERNEL32
        call make_idt64
        SAY "write_protect: every odd write to live page tables", 10
        CLEAR PD, TABLES_END - PD
        MARK_FRAMES FRAMES, 64
        FILL32 K32, RW, 1024, 0x1000
        mov dword [PD], K32 | RW
        mov dword [PD + 256 * 4], T1 | RW
        mov dword [PD + 257 * 4], T2 | RW
        mov eax, cr0
        and eax, ~(CR0_EM | CR0_TS)
        or eax, CR0_MP
        mov cr0, eax
        SET_CR4 CR4_OSFXSR | CR4_PSE
        fninit
        PAGING_ON PD

%include "inc/write_plain.inc"
%include "inc/write_wide.inc"
%include "inc/write_alias.inc"
        PAGING_OFF
        CLEAR_CR4 CR4_PSE
%include "inc/write_long.inc"
        PASSED64 "write_protect"

bits 32

; Every entry as WHAT wants it at first, and every page in use: 0 to 79 map frames 0 to 63 and
; again from 0; 1020 to 1027 and 2044 to 2047 map frames 48 and up.
fresh:  pushad
        mov edi, E(0)
        xor ecx, ecx
.next:  mov eax, ecx
        and eax, 63
        shl eax, 12
        add eax, ENTRY(0)
        stosd
        inc ecx
        cmp ecx, 80
        jb .next
        FILL32 E(1020), ENTRY(48), 8, 0x1000
        FILL32 E(2044), ENTRY(56), 4, 0x1000
        mov dword [BEFORE + 0xffc], 0xbef0bef0
        mov dword [BEFORE + 0xff8], 0xbef0bef0
        mov dword [AFTER], 0xaf7eaf7e
        RELOAD_CR3
        mov esi, VIEW
        mov ecx, 16
.touch: mov eax, [esi]
        add esi, 0x1000
        dec ecx
        jnz .touch
        mov eax, [VIEW + 1022 * 0x1000]
        mov eax, [VIEW + 1023 * 0x1000]
        mov eax, [VIEW + 1024 * 0x1000]
        mov eax, [VIEW + 1025 * 0x1000]
        mov eax, [VIEW + 2047 * 0x1000]
        popad
        ret

        KERNEL32_CODE
        LONG_CODE

section .data
        align 16
; Doublewords and quadwords for the cases.
two_entries:  dd ENTRY(20), ENTRY(21)
four_entries: dd ENTRY(24), ENTRY(25), ENTRY(26), ENTRY(27)
more_entries: dd ENTRY(28), ENTRY(29), ENTRY(30), ENTRY(31)
odd_bytes:    dd 0x00300000, 0xa0030031, 0, 0
