; SPDX-License-Identifier: GPL-2.0-or-later
; quadrants: 32-bit paging over all four gigabytes and both halves of each table (MMU cases 1, 5,
; 6). A shadow table has 512 entries: a 32-bit directory needs four of them, a table two. Twelve
; slots around every seam of the directory map four pages around every seam of their tables; each
; edit is followed by a look at all 48 pages, because only what was edited may change.

%include "inc/kernel32.inc"
        org ORIGIN
        bits 32
        MULTIBOOT_AOUT

SLOTS   equ 12
PAGES   equ SLOTS * 4
PD      equ 0x201000
PDB     equ 0x202000                    ; the same, rotated by a gigabyte
TABLES  equ 0x203000                    ; one a slot
ALT     equ 0x210000                    ; identity map but for its four pages: frames 100 to 103
SHARED  equ 0x211000
TABLES_END equ 0x212000
FRAMES  equ 0x400000
%define FRAME(n) (FRAMES + (n) * 0x1000)

start:  KERNEL32
        SAY "quadrants: 4 gigabytes, 12 directory slots, 48 pages", 10
        CLEAR PD, TABLES_END - PD
        MARK_FRAMES FRAMES, 128
        FILL32 TABLES, RW, 1024, 0x1000         ; slot 0 has the kernel in it
        FILL32 ALT, RW, 1024, 0x1000
        call hang_tables
        call hang_alternative
        PAGING_ON PD
        call check_all
        SAY "every page holds its own value", 10

; -- one table entry at a time ---------------------------------------------------------------------
        xor ebx, ebx
.entry: call entry_address                      ; EDI
        call page_address                       ; ESI
        lea eax, [ebx + 50]
        mov [want + ebx * 4], eax
        shl eax, 12
        add eax, FRAMES + RW
        mov [edi], eax
        invlpg [esi]
        call check_all
        mov dword [edi], 0
        invlpg [esi]
        mov dword [want + ebx * 4], NONE
        call check_all
        mov [want + ebx * 4], ebx
        mov eax, ebx
        shl eax, 12
        add eax, FRAMES + RW
        mov [edi], eax                          ; from not present: no INVLPG needed
        inc ebx
        cmp ebx, PAGES
        jb .entry
        call check_all
        SAY "table entries 0, 511, 512, 1023: each edit changes one page", 10

; -- one directory entry at a time -----------------------------------------------------------------
        xor ebx, ebx
.slot:  mov eax, [slots + ebx * 4]
        mov edi, [PD + eax * 4]
        mov dword [PD + eax * 4], ALT | RW
        mov edx, 100
        call slot_wants
        call slot_invlpg
        call check_all
        test ebx, ebx                           ; slot 0 carries the kernel
        jz .back
        mov dword [PD + eax * 4], 0
        mov edx, NONE
        call slot_wants
        call slot_invlpg
        call check_all
.back:  mov [PD + eax * 4], edi
        lea edx, [ebx * 4]
        call slot_wants
        call slot_invlpg
        inc ebx
        cmp ebx, SLOTS
        jb .slot
        call check_all
        SAY "directory entries 0, 1, 255, 256, 257, 511, ...: each edit changes one slot", 10

; -- one 8-byte store over a seam ------------------------------------------------------------------
        mov edi, PD + 255 * 4                   ; entries 255 and 256: quadrants 0 and 1
        mov ebx, ALT | RW
        mov ecx, ALT | RW
        call store8
        mov ebx, 2
        mov edx, 100
        call slot_wants
        call slot_invlpg
        mov ebx, 3
        call slot_wants
        call slot_invlpg
        call check_all
        mov ebx, TABLES + 2 * 0x1000 + RW
        mov ecx, TABLES + 3 * 0x1000 + RW
        call store8
        mov ebx, 2
        mov edx, 8
        call slot_wants
        call slot_invlpg
        inc ebx
        mov edx, 12
        call slot_wants
        call slot_invlpg
        call check_all
        mov edi, TABLES + 8 * 0x1000 + 511 * 4  ; entries 511 and 512: both halves of a table
        mov ebx, FRAME(60) | RW
        mov ecx, FRAME(61) | RW
        call store8
        mov dword [want + (8 * 4 + 1) * 4], 60
        mov dword [want + (8 * 4 + 2) * 4], 61
        mov ebx, 8
        call slot_invlpg
        call check_all
        mov ebx, FRAME(33) | RW
        mov ecx, FRAME(34) | RW
        call store8
        mov dword [want + (8 * 4 + 1) * 4], 33
        mov dword [want + (8 * 4 + 2) * 4], 34
        mov ebx, 8
        call slot_invlpg
        call check_all
        SAY "8-byte stores over the seams change both sides", 10

; -- one table in four gigabytes -------------------------------------------------------------------
        mov dword [SHARED], FRAME(70) | RW
        mov dword [SHARED + 512 * 4], FRAME(71) | RW
%assign gigabyte 0
%rep 4
        mov dword [PD + (gigabyte * 256 + 2) * 4], SHARED | RW
        CHECK [(gigabyte << 30) + (2 << 22)], MARK(70), "shared table, first half"
        CHECK [(gigabyte << 30) + (2 << 22) + (512 << 12)], MARK(71), "shared table, second half"
%assign gigabyte gigabyte + 1
%endrep
        mov dword [SHARED], FRAME(72) | RW
        mov dword [SHARED + 512 * 4], FRAME(73) | RW
%assign gigabyte 0
%rep 4
        invlpg [(gigabyte << 30) + (2 << 22)]
        invlpg [(gigabyte << 30) + (2 << 22) + (512 << 12)]
        CHECK [(gigabyte << 30) + (2 << 22)], MARK(72), "first half after an edit"
        CHECK [(gigabyte << 30) + (2 << 22) + (512 << 12)], MARK(73), "second half after an edit"
%assign gigabyte gigabyte + 1
%endrep
        mov dword [(1 << 30) + (2 << 22) + 0x100], 0x600d
        CHECK [(3 << 30) + (2 << 22) + 0x100], 0x600d, "written in gigabyte 1, read in 3"
        SAY "one table shared by four gigabytes", 10

        ; The same table, read-only from gigabyte 2 (CVE-2021-38198): first used through the
        ; writable slots, then through the other, then in turn.
        mov dword [PD + (512 + 2) * 4], SHARED | RO
        invlpg [(2 << 30) + (2 << 22)]
        invlpg [(2 << 30) + (2 << 22) + (512 << 12)]
        mov dword [(2 << 22) + 0x104], 1
        FAULTS XPF, PF_P | PF_W, (2 << 30) + (2 << 22) + 0x104, "read-only by its slot", \
                mov dword [(2 << 30) + (2 << 22) + 0x104], 2
        mov dword [(3 << 30) + (2 << 22) + 0x104], 3
        CHECK [(2 << 30) + (2 << 22) + 0x104], 3, "read through the read-only slot"
        FAULTS XPF, PF_P | PF_W, (2 << 30) + (2 << 22) + (512 << 12), "its second half too", \
                mov dword [(2 << 30) + (2 << 22) + (512 << 12)], 2
        mov dword [PD + (512 + 2) * 4], SHARED | RW
        invlpg [(2 << 30) + (2 << 22)]
        mov dword [(2 << 30) + (2 << 22) + 0x104], 4
        CHECK [(1 << 30) + (2 << 22) + 0x104], 4, "writable again"
        call check_all
        SAY "the rights of each slot are its own", 10

; -- a second directory, the same tables elsewhere -------------------------------------------------
        mov dword [PDB], TABLES | RW
        mov ebx, 1
.turn:  mov eax, [slots + ebx * 4]
        add eax, 256
        and eax, 1023
        cmp eax, 256                            ; slots 0 and 768 + 256 would meet
        je .skip
        test eax, eax
        jz .skip
        mov ecx, ebx
        shl ecx, 12
        add ecx, TABLES + RW
        mov [PDB + eax * 4], ecx
.skip:  inc ebx
        cmp ebx, SLOTS
        jb .turn
        mov ebp, 3                              ; rounds
.round: mov eax, PDB
        mov cr3, eax
        CHECK [(1 << 30) + (1 << 22)], MARK(4), "slot 1, a gigabyte up"
        CHECK [(2 << 30) + (512 << 12)], MARK(14), "slot 256, a gigabyte up"
        CHECK [(3 << 30) + (1023 << 12)], MARK(27), "slot 512, a gigabyte up"
        CHECK [(1 << 22) + (511 << 12)], MARK(41), "slot 769, wrapped to the first gigabyte"
        FAULTS XPF, 0, 1 << 30, "slot 256 is empty here", mov eax, [1 << 30]
        mov eax, PD
        mov cr3, eax
        call check_all
        dec ebp
        jnz .round
        SAY "a second directory with the same tables in other gigabytes", 10
        PASSED "quadrants"

; Tables of the slots: page k of slot i maps frame 4 * i + k.
hang_tables:
        xor ebx, ebx
.page:  mov [want + ebx * 4], ebx
        call entry_address
        mov eax, ebx
        shl eax, 12
        add eax, FRAMES + RW
        mov [edi], eax
        mov ecx, ebx
        shr ecx, 2
        mov eax, [slots + ecx * 4]
        shl ecx, 12
        add ecx, TABLES + RW
        mov [PD + eax * 4], ecx
        inc ebx
        cmp ebx, PAGES
        jb .page
        ret

hang_alternative:
        xor ecx, ecx
.page:  mov eax, ecx
        shl eax, 12
        add eax, FRAME(100) | RW
        mov edi, [entries + ecx * 4]
        mov [ALT + edi * 4], eax
        inc ecx
        cmp ecx, 4
        jb .page
        ret

; EDI = address of page EBX's table entry.
entry_address:
        push eax
        mov eax, ebx
        and eax, 3
        mov edi, [entries + eax * 4]
        mov eax, ebx
        shr eax, 2
        shl eax, 12
        lea edi, [TABLES + eax + edi * 4]
        pop eax
        ret

; ESI = page EBX's address.
page_address:
        push eax
        push ebx
        mov eax, ebx
        shr eax, 2
        mov esi, [slots + eax * 4]
        shl esi, 22
        and ebx, 3
        mov eax, [entries + ebx * 4]
        shl eax, 12
        add esi, eax
        pop ebx
        pop eax
        ret

; The four pages of slot number EBX are wanted to be EDX, EDX + 1, ... (or all NONE).
slot_wants:
        push ecx
        push edx
        push edi
        mov edi, ebx
        shl edi, 4
        mov ecx, 4
.next:  mov [want + edi], edx
        cmp edx, NONE
        je .none
        inc edx
.none:  add edi, 4
        dec ecx
        jnz .next
        pop edi
        pop edx
        pop ecx
        ret

slot_invlpg:
        push ebx
        push ecx
        push esi
        shl ebx, 2
        mov ecx, 4
.next:  call page_address
        invlpg [esi]
        inc ebx
        dec ecx
        jnz .next
        pop esi
        pop ecx
        pop ebx
        ret

; Store ECX:EBX at EDI in one go.
store8: mov eax, [edi]
        mov edx, [edi + 4]
.again: lock cmpxchg8b [edi]
        jnz .again
        ret

; All 48 pages against want: value of the page, or NONE for a page fault.
check_all:
        pushad
        xor ebx, ebx
.next:  call page_address
        mov ecx, NONE
        mov edx, [want + ebx * 4]
        cmp edx, NONE
        je .read
        add edx, MARK(0)
.read:  TRY .after
        mov ecx, [esi + 0xffc]
.after: mov dword [fault_resume], 0
        CHECK ecx, edx, "one of all pages"
        inc ebx
        cmp ebx, PAGES
        jb .next
        popad
        ret

section .data
        align 4
slots:  dd 0, 1, 255, 256, 257, 511, 512, 513, 767, 768, 769, 1023
entries: dd 0, 511, 512, 1023

section .text
        KERNEL32_CODE

section .bss
want:   resd PAGES
