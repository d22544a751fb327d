; SPDX-License-Identifier: GPL-2.0-or-later
; pd_as_pt: directories that are tables too (KVM's commit cea0f0e7ea54, MMU case 21).
; 32-bit paging with the recursive slot last and in the middle, one directory as a table of
; another, a large page seen as a small one; then recursion under PAE and in long mode.

%include "inc/kernel32.inc"
%include "inc/long.inc"
        org ORIGIN
        bits 32
        MULTIBOOT

PD      equ 0x200000                    ; directory A
PT0     equ 0x201000                    ; identity map of the first 4 MiB
PT1     equ 0x202000                    ; slot 1 of A
PT2     equ 0x203000
PDB     equ 0x204000                    ; directory B
PDPT    equ 0x205000                    ; PAE
PAEPD   equ 0x206000                    ; its four directories
PAEPT0  equ 0x20a000                    ; two tables: identity
PAEPT1  equ 0x20c000
PML4    equ 0x210000                    ; long mode
LPDPT   equ 0x211000
LPD     equ 0x212000
NEWPDPT equ 0x213000
NEWPD   equ 0x214000
NEWPT   equ 0x215000
TABLES_END equ 0x216000
FRAMES  equ 0x300000
%define FRAME(n) (FRAMES + (n) * 0x1000)

WINDOW  equ 0xffc00000                  ; all tables of A, by its last slot
DIR     equ 0xfffff000                  ; A itself

start:  KERNEL32
        call make_idt64
        SAY "pd_as_pt: directories that are tables", 10
        CLEAR PD, TABLES_END - PD
        MARK_FRAMES FRAMES, 16
        FILL32 PT0, RW, 1024, 0x1000
        mov dword [PD], PT0 | RW
        mov dword [PD + 4], PT1 | RW
        mov dword [PD + 1023 * 4], PD | RW
        mov dword [PT1], FRAME(0) | RW
        mov dword [PT1 + 4], FRAME(1) | RW
        mov dword [0x400000], MARK(0x400)       ; physical, for the large page below
        mov dword [0x401000], MARK(0x401)
        PAGING_ON PD

; -- the last slot ----------------------------------------------------------------------------
        CHECK [0x400000], MARK(0), "page 0 of slot 1"
        CHECK [0x401ffc], MARK(1), "page 1 of slot 1"
        CHECK [DIR + 4], PT1 | RWA, "PDE 1 through the directory's window"
        CHECK [WINDOW + 0x1000], FRAME(0) | RWA, "PTE 0 through the window"
        CHECK [PD + 1023 * 4], PD | RWA, "recursive entry: accessed, not written through"

        ; An edit through the window and one through the identity map.
        mov dword [WINDOW + 0x1000], FRAME(2) | RW
        invlpg [0x400000]
        CHECK [0x400000], MARK(2), "page 0 after an edit through the window"
        CHECK [PT1], FRAME(2) | RWA, "the entry in its own frame"
        CHECK [PD + 4], PT1 | RWAD, "PDE 1 was the window's PTE: dirty"
        CHECK [PD + 1023 * 4], PD | RWA, "the recursive entry was its PDE only: clean"
        mov dword [PT1], FRAME(3) | RW
        invlpg [0x400000]
        CHECK [WINDOW + 0x1000], FRAME(3) | RW, "the entry through the window, not yet used"
        CHECK [0x400ffc], MARK(3), "page 0 after an edit through the identity map"
        mov dword [0x400800], 1
        CHECK [WINDOW + 0x1000], FRAME(3) | RWAD, "page 0 written: dirty"
        SAY "recursive last slot: entries seen and edited through the window", 10

        ; A table hung in, filled and taken out, all through windows.
        mov dword [DIR + 8], PT2 | RW
        CHECK [PD + 1023 * 4], PD | RWAD, "the recursive entry written through: dirty"
        mov edi, WINDOW + 0x2000
        mov eax, FRAME(4) | RW
        mov ecx, 4
.hang:  stosd
        add eax, 0x1000
        dec ecx
        jnz .hang
        CHECK [0x800000], MARK(4), "page 0 of the new table"
        CHECK [0x803000], MARK(7), "page 3 of the new table"
        FAULTS XPF, PF_W, 0x804010, "page 4 of the new table", mov dword [0x804010], 1
        mov dword [DIR + 8], 0
        invlpg [0x800000]
        invlpg [0x803000]
        invlpg [WINDOW + 0x2000]
        FAULTS XPF, 0, 0x803004, "the table is gone", mov eax, [0x803004]
        FAULTS XPF, 0, WINDOW + 0x2008, "its window too", mov eax, [WINDOW + 0x2008]
        mov dword [DIR + 4], PT2 | RW
        invlpg [0x400000]
        invlpg [0x401000]
        invlpg [WINDOW + 0x1000]
        CHECK [0x400000], MARK(4), "slot 1 with the other table"
        CHECK [WINDOW + 0x1004], FRAME(5) | RW, "its window with the other table"
        SAY "a table hung in, filled, taken out and swapped through the windows", 10

        ; The window closed from inside: the entry that maps the store is the one it clears.
        mov dword [DIR + 1023 * 4], 0
        invlpg [DIR]
        invlpg [WINDOW + 0x1000]
        FAULTS XPF, 0, DIR, "the directory's window is closed", mov eax, [DIR]
        FAULTS XPF, PF_W, WINDOW + 0x1000, "the tables' too", mov [WINDOW + 0x1000], eax
        mov dword [PD + 1023 * 4], PD | RO
        CHECK [DIR + 4], PT2 | RWA, "open again, to read"
        FAULTS XPF, PF_P | PF_W, DIR + 4, "not to write", mov dword [DIR + 4], 0
        FAULTS XPF, PF_P | PF_W, WINDOW + 0x1000, "nor the tables", mov dword [WINDOW + 0x1000], 0
        mov dword [PD + 1023 * 4], PD | RW
        invlpg [DIR]
        invlpg [WINDOW + 0x1000]
        mov dword [WINDOW + 0x1000], FRAME(6) | RW
        invlpg [0x400000]
        CHECK [0x400000], MARK(6), "writable once more"
        SAY "the window closed from inside, read-only, and open again", 10

; -- a large page that is a small one as well ------------------------------------------------------
        SET_CR4 CR4_PSE
        ; As a directory entry: 4 MiB at 0x400000, PAT. As a table entry: the frame 0x401000, PAT.
        mov dword [DIR + 3 * 4], 0x401000 | PTE_PS | RW
        CHECK [0xc00000], MARK(0x400), "as a large page"
        CHECK [WINDOW + 0x3000], MARK(0x401), "as a page of 4 KiB"
        mov dword [WINDOW + 0x3000], 77
        CHECK [0xc01000], 77, "one byte by both ways"
        mov dword [DIR + 3 * 4], 0
        invlpg [0xc00000]
        invlpg [WINDOW + 0x3000]
        SAY "one entry is a large page and a small one", 10

; -- a slot in the middle --------------------------------------------------------------------------
        mov dword [PD + 5 * 4], PD | RW
        CHECK [0x01401000], FRAME(6) | RWA, "PTE 0 of slot 1 through slot 5"
        CHECK [0x01405000 + 5 * 4], PD | RWA, "slot 5 through itself"
        CHECK [0x017ff000 + 5 * 4], PD | RWA, "slot 5 through slots 5 and 1023"
        mov dword [0x01405000 + 4], PT1 | RW    ; slot 1 back to its first table
        invlpg [0x400000]
        invlpg [0x401000]
        invlpg [0x01401000]
        invlpg [WINDOW + 0x1000]
        CHECK [0x400000], MARK(3), "slot 1 edited through slot 5"
        CHECK [0x01401000], FRAME(3) | RWAD, "its table through slot 5"
        mov dword [PD + 5 * 4], 0
        invlpg [0x01401000]
        invlpg [0x01405000]
        invlpg [0x017ff000]
        FAULTS XPF, 0, 0x01401000, "slot 5 is gone", mov eax, [0x01401000]
        CHECK [DIR + 4], PT1 | RWA, "the last slot is not"
        SAY "recursive slot in the middle", 10

; -- directory A is a table of directory B ---------------------------------------------------------
        mov dword [PDB], PT0 | RW
        mov dword [PDB + 7 * 4], PD | RW
        mov eax, PDB
        mov cr3, eax
        CHECK [0x01c01000], FRAME(3) | RWAD, "A's slot 1 as page 1 of B's slot 7"
        mov dword [0x01c01000], FRAME(8) | RW   ; A's table, as data of B
        mov dword [PD + 2 * 4], PT2 | RW        ; A, not loaded now
        CHECK [0x01c02000], FRAME(6) | RWA, "B sees the new entry of A as a page"
        FAULTS XPF, 0, 0x400000, "slot 1 is not B's", mov eax, [0x400000]
        mov eax, PD
        mov cr3, eax
        CHECK [0x400000], MARK(8), "A after B's edit of its table"
        CHECK [0x801000], MARK(5), "A after an edit of itself while B ran"
        CHECK [PD + 2 * 4], PT2 | RWA, "accessed in both roles"
        mov ebx, 8                              ; the two in turn, one edit each time
.turn:  mov eax, PDB
        mov cr3, eax
        mov eax, ebx
        shl eax, 12
        add eax, FRAMES + RW
        mov [0x01c01004], eax
        mov eax, PD
        mov cr3, eax
        lea ecx, [ebx + MARK(0)]
        CHECK [0x401000], ecx, "A and B in turn"
        inc ebx
        cmp ebx, 16
        jb .turn
        PAGING_OFF
        CLEAR_CR4 CR4_PSE
        SAY "one directory is a table of another", 10

; -- PAE -------------------------------------------------------------------------------------------
PWINDOW equ 0xff800000                  ; tables
PDIR    equ 0xffffc000                  ; the four directories in a row
        mov ebx, 0
.pdpte: mov eax, ebx
        shl eax, 12
        add eax, PAEPD + RW
        mov [PAEPD + 0x3000 + 508 * 8 + ebx * 8], eax
        mov dword [PAEPD + 0x3000 + 508 * 8 + ebx * 8 + 4], 0
        xor eax, PTE_W                          ; in a PDPTE bit 1 is reserved
        mov [PDPT + ebx * 8], eax
        mov dword [PDPT + ebx * 8 + 4], 0
        inc ebx
        cmp ebx, 4
        jb .pdpte
        FILL64 PAEPT0, RW, 1024, 0x1000
        ENTRY64 PAEPD, PAEPT0 | RW
        ENTRY64 PAEPD + 8, (PAEPT0 + 0x1000) | RW
        SET_CR4 CR4_PAE
        PAGING_ON PDPT
        CHECK [PDIR], PAEPT0 | RWA, "PDE 0 through the window"
        CHECK [PDIR + 0x3000 + 511 * 8], (PAEPD + 0x3000) | RWA, "the slot of the windows"
        ENTRY64 PDIR + 0x1000, PAEPT1 | RW      ; PDE of 0x40000000
        ENTRY64 PWINDOW + 0x200000, FRAME(1) | RW
        CHECK [0x40000000], MARK(1), "a page mapped through the windows"
        mov dword [PWINDOW + 0x200000], FRAME(2) | RW
        invlpg [0x40000000]
        CHECK [0x40000000], MARK(2), "edited through the window"
        CHECK [PAEPT1], FRAME(2) | RWA, "the entry in its own frame"
        mov dword [PAEPT1], FRAME(3) | RW
        invlpg [0x40000000]
        CHECK [0x40000000], MARK(3), "edited through the identity map"
        ENTRY64 PDIR + 0x2000 + 8, PAEPT1 | RW  ; the same table at 0x80200000
        CHECK [0x80200000], MARK(3), "one table in two directories"
        mov dword [PWINDOW + 0x401000], FRAME(4) | RW
        invlpg [0x40000000]
        invlpg [0x80200000]
        CHECK [0x40000000], MARK(4), "edited through the second window, seen in the first place"
        CHECK [0x80200000], MARK(4), "and in the second"
        mov dword [PDIR + 0x1000], 0
        invlpg [0x40000000]
        invlpg [PWINDOW + 0x200000]
        FAULTS XPF, 0, 0x40000000, "the directory entry is gone", mov eax, [0x40000000]
        FAULTS XPF, 0, PWINDOW + 0x200000, "and its window", mov eax, [PWINDOW + 0x200000]
        PAGING_OFF
        SAY "recursion under PAE, four directories", 10

; -- long mode -------------------------------------------------------------------------------------
        ENTRY64 PML4, LPDPT | RW
        ENTRY64 PML4 + 511 * 8, PML4 | RW
        ENTRY64 LPDPT, LPD | RW
        ENTRY64 LPD, PAEPT0 | RW                ; PAE's tables serve here unchanged
        ENTRY64 LPD + 8, (PAEPT0 + 0x1000) | RW
        ENTER_LONG PML4, long_mode

bits 64
long_mode:
W1      equ 0xffffff8000000000          ; the PTE of VA stands at W1 + (VA >> 12) * 8
W2      equ 0xffffffffc0000000
W3      equ 0xffffffffffe00000
W4      equ 0xfffffffffffff000
VA      equ 0x0000010040201000          ; indexes 2, 1, 1, 1
        mov rbx, W4
        CHECK64 [rbx + 511 * 8], PML4 | RWA, "the recursive entry through itself"
        ; A page with three new tables, all set up through the windows.
        mov qword [rbx + (VA >> 39) * 8], NEWPDPT | RW
        mov rbx, W3 + (VA >> 30) * 8
        mov qword [rbx], NEWPD | RW
        mov rbx, W2 + (VA >> 21) * 8
        mov qword [rbx], NEWPT | RW
        mov rbx, W1 + (VA >> 12) * 8
        mov qword [rbx], FRAME(1) | RW
        mov rsi, VA
        mov eax, [rsi]
        CHECK64 rax, MARK(1), "a page set up through four windows"
        CHECK64 [rbx], FRAME(1) | RWA, "its entry"
        ; One edit at each level, undone after a look.
        mov qword [rbx], FRAME(2) | RW
        invlpg [rsi]
        mov eax, [rsi]
        CHECK64 rax, MARK(2), "table entry edited"
        mov qword [NEWPT + 0x1000 - 8], FRAME(3) | RW   ; page 511 of the table
        mov rdi, W2 + (VA >> 21) * 8
        mov qword [rdi], NEWPD | RW             ; the directory is now its own table
        invlpg [rsi]
        mov eax, [rsi + 8]
        CHECK64 rax, NEWPD | RWA, "directory as table: the page is the directory itself"
        mov qword [rdi], NEWPT | RW
        invlpg [rsi]
        invlpg [rbx]
        mov eax, [rsi]
        CHECK64 rax, MARK(2), "directory entry back"
        mov rdi, W3 + (VA >> 30) * 8
        mov qword [rdi], 0
        invlpg [rsi]
        invlpg [rbx]
        FAULTS64 XPF, 0, rsi, "pointer entry gone", mov eax, [rsi]
        FAULTS64 XPF, PF_W, rbx, "and the window behind it", mov qword [rbx], 0
        mov qword [rdi], NEWPD | RW
        mov eax, [rsi]
        CHECK64 rax, MARK(2), "pointer entry back"
        mov rdi, W4
        mov rax, NEWPDPT | RO
        mov [rdi + 2 * 8], rax
        invlpg [rsi]
        FAULTS64 XPF, PF_P | PF_W, rsi, "read-only from the top", mov dword [rsi], 0
        mov qword [rdi + 2 * 8], NEWPDPT | RW
        mov dword [rsi], 5
        CHECK64 [FRAMES + 0x2000], 5, "writable from the top"
        ; The top table as a directory of its own last slot, edited there.
        mov rdi, W4
        mov qword [rdi + 3 * 8], NEWPDPT | RW   ; index 3: an alias of index 2
        mov rsi, VA + (1 << 39)
        mov eax, [rsi]
        CHECK64 rax, 5, "an alias by the top table"
        mov rbx, W1 + ((VA + (1 << 39)) >> 12) * 8
        mov qword [rbx], FRAME(6) | RW
        invlpg [rsi]
        mov rdi, VA
        invlpg [rdi]
        mov eax, [rdi]
        CHECK64 rax, MARK(6), "edited through the alias's window, seen in the first place"
        SAY64 "recursion in long mode, all four levels", 10
        PASSED64 "pd_as_pt"

        KERNEL32_CODE
        LONG_CODE
