; SPDX-License-Identifier: GPL-2.0-or-later
; context_switch: 16 address spaces round and round, each with 8 pages of its own at the same
; addresses, under 32-bit paging, PAE (all 16 page-directory-pointer tables in one frame) and long
; mode. Spaces are edited while another runs, reloaded with the same CR3, taken down and their
; tables used as data (MMU case 23); global pages (case 27).

%include "inc/kernel32.inc"
%include "inc/long.inc"
        org ORIGIN
        bits 32
        MULTIBOOT

SPACES  equ 16
PAGES   equ 8
ROUNDS  equ 16
K32     equ 0x201000
GLOBALS equ 0x202000                    ; table of the global pages
PDPTS   equ 0x203000                    ; 16 of 32 bytes
PD64    equ 0x204000                    ; PAE and long mode: kernel's directory
K64     equ 0x205000                    ; two tables
PD      equ 0x210000                    ; 32-bit: a directory and a table for each space
PT      equ 0x220000
PDV     equ 0x230000                    ; PAE and long mode: likewise
PTV     equ 0x240000
LPDPT   equ 0x250000                    ; long mode
PML4    equ 0x260000
TABLES_END equ 0x270000
FRAMES  equ 0x300000                    ; 16 * 8, then a few for the global pages
%define FRAME(n) (FRAMES + (n) * 0x1000)
VIEW    equ 0x40000000
GLOBAL_VIEW equ 0x50000000

start:  KERNEL32
        call make_idt64
        SAY "context_switch: 16 address spaces of 8 pages", 10
        CLEAR K32, TABLES_END - K32
        MARK_FRAMES FRAMES, SPACES * PAGES + 8
        FILL32 K32, RW, 1024, 0x1000
        FILL32 GLOBALS, FRAME(SPACES * PAGES) | RW | PTE_G, 4, 0x1000
        xor ebx, ebx
.space: mov esi, ebx
        shl esi, 12
        mov dword [PD + esi], K32 | RW
        lea eax, [PT + RW + esi]
        mov [PD + esi + (VIEW >> 22) * 4], eax
        mov dword [PD + esi + (GLOBAL_VIEW >> 22) * 4], GLOBALS | RW
        lea eax, [PD + esi]
        mov [roots + ebx * 4], eax
        mov eax, ebx
        shl eax, 15
        add eax, FRAMES + RW
        xor ecx, ecx
.page:  mov [PT + esi + ecx * 4], eax
        mov [PTV + esi + ecx * 8], eax
        add eax, 0x1000
        inc ecx
        cmp ecx, PAGES
        jb .page
        inc ebx
        cmp ebx, SPACES
        jb .space

; -- round and round -------------------------------------------------------------------------------
        PAGING_ON PD
        mov ebp, ROUNDS
.round: call all_spaces
        dec ebp
        jnz .round
        call count_frames
        CHECK eax, ROUNDS * SPACES * PAGES, "writes in all spaces"
        SAY "32-bit paging: 16 rounds of 16 switches", 10

; -- edits of spaces that do not run ---------------------------------------------------------------
        mov ebp, PAGES                          ; so that all are home again
.rotate:
        mov eax, ebp                            ; a different space runs each time
        mov eax, [roots + eax * 4]
        mov cr3, eax
        call rotate_all
        inc dword [turned]
        call all_spaces
        dec ebp
        jnz .rotate
        mov dword [turned], 0
        call all_spaces
        SAY "tables edited from other spaces: seen at the next switch", 10

; -- the same CR3 again ----------------------------------------------------------------------------
        mov eax, [roots]
        mov cr3, eax
        mov ebx, 15
.again: mov eax, [VIEW]                         ; in the TLB
        mov eax, ebx
        shl eax, 12
        add eax, FRAMES + RW
        mov [PT], eax
        RELOAD_CR3
        lea ecx, [ebx + MARK(0)]
        CHECK [VIEW], ecx, "page 0 after the same CR3 was loaded"
        mov dword [PT + 4], 0
        RELOAD_CR3
        FAULTS XPF, 0, VIEW + 0x1000, "page 1 gone", mov eax, [VIEW + 0x1000]
        mov dword [PT + 4], FRAME(1) | RW
        CHECK [VIEW + 0x1000], MARK(1), "page 1 is back"
        mov dword [PT + 8], FRAME(2) | RO
        RELOAD_CR3
        FAULTS XPF, PF_P | PF_W, VIEW + 0x2008, "page 2 read-only", mov [VIEW + 0x2008], eax
        mov dword [PT + 8], FRAME(2) | RW
        RELOAD_CR3
        mov [VIEW + 0x200c], ebx
        dec ebx
        jns .again
        SAY "a reload of the same CR3: every edit seen", 10

; -- a space goes, its tables become data, and come back -------------------------------------------
LAST    equ SPACES - 1
        mov dword [PD + 14 * 4], 0              ; nothing there; a plain store beside live entries
        mov dword [PT + 8 * 4], (PT + LAST * 0x1000) | RW       ; space 15's table as page 8
        mov dword [PT + 9 * 4], (PD + LAST * 0x1000) | RW       ; its directory as page 9
        mov edi, VIEW + 8 * 0x1000
        mov eax, 0xda7ada7a
        mov ecx, 2 * 1024
        rep stosd
        CHECK [PT + LAST * 0x1000 + 4], 0xda7ada7a, "the table is data"
        CHECK [PD + LAST * 0x1000], 0xda7ada7a, "the directory is data"
        mov esp, VIEW + 9 * 0x1000              ; and a stack
        push dword 1
        push dword 2
        pop eax
        pop ecx
        mov esp, stack_top
        CHECK [VIEW + 9 * 0x1000 - 4], 1, "pushed onto the old table"
        CLEAR VIEW + 8 * 0x1000, 0x2000
        FILL32 VIEW + 8 * 0x1000, FRAME(LAST * PAGES) | RW, PAGES, 0x1000
        mov dword [VIEW + 9 * 0x1000], K32 | RW
        mov dword [VIEW + 9 * 0x1000 + (VIEW >> 22) * 4], (PT + LAST * 0x1000) | RW
        mov dword [VIEW + 9 * 0x1000 + (GLOBAL_VIEW >> 22) * 4], GLOBALS | RW
        call all_spaces
        mov eax, [roots]
        mov cr3, eax
        CHECK [VIEW + 8 * 0x1000 + 4], FRAME(LAST * PAGES + 1) | RWAD, "still mapped as data"
        mov dword [PT + 8 * 4], 0
        mov dword [PT + 9 * 4], 0
        RELOAD_CR3
        SAY "tables turned into data and stack, and back into tables", 10

; -- two directories over one table ----------------------------------------------------------------
        mov eax, [PD + (VIEW >> 22) * 4]
        mov [PD + 0x1000 + (VIEW >> 22) * 4 + 4], eax   ; space 1 has space 0's table next to its own
        mov eax, [roots + 4]
        mov cr3, eax
        CHECK [VIEW + 0x400000], MARK(0), "space 0's page 0 in space 1"
        mov dword [PT], FRAME(5) | RW
        invlpg [VIEW + 0x400000]
        CHECK [VIEW + 0x400000], MARK(5), "edited in space 1"
        CHECK [VIEW], MARK(8), "its own page 0"
        mov eax, [roots]
        mov cr3, eax
        CHECK [VIEW], MARK(5), "the edit in space 0"
        mov dword [PT], FRAME(0) | RW
        invlpg [VIEW]
        mov dword [PD + 0x1000 + (VIEW >> 22) * 4 + 4], 0
        call all_spaces
        SAY "one table in two spaces", 10

; -- global pages ----------------------------------------------------------------------------------
        SET_CR4 CR4_PGE
        mov ebx, 3
.global:
        call all_spaces_global
        mov dword [GLOBALS], FRAME(SPACES * PAGES + 4) | RW | PTE_G
        invlpg [GLOBAL_VIEW]                    ; CR3 would not do
        mov dword [global_mark], MARK(SPACES * PAGES + 4)
        call all_spaces_global
        mov dword [GLOBALS], FRAME(SPACES * PAGES) | RW | PTE_G
        CLEAR_CR4 CR4_PGE                       ; ends global translations, too
        SET_CR4 CR4_PGE
        mov dword [global_mark], MARK(SPACES * PAGES)
        dec ebx
        jnz .global
        mov dword [PT], FRAME(3) | RW           ; not global: CR3 does
        mov eax, [roots]
        mov cr3, eax
        CHECK [VIEW], MARK(3), "a page that is not global"
        mov dword [PT], FRAME(0) | RW
        RELOAD_CR3
        call all_spaces_global
        CLEAR_CR4 CR4_PGE
        PAGING_OFF
        SAY "global pages: INVLPG and CR4.PGE renew them", 10

; -- PAE -------------------------------------------------------------------------------------------
        FILL64 K64, RW, 1024, 0x1000
        mov dword [PD64], K64 | RW
        mov dword [PD64 + 8], (K64 + 0x1000) | RW
        xor ebx, ebx
.space64:
        mov esi, ebx
        shl esi, 12
        mov edi, ebx
        shl edi, 5
        lea eax, [PTV + RW + esi]
        mov [PDV + esi], eax
        lea eax, [PDV + PTE_P + esi]
        mov [PDPTS + edi + 8], eax              ; VIEW is in gigabyte 1
        mov dword [PDPTS + edi], PD64 | PTE_P
        or eax, RW
        mov [LPDPT + esi + 8], eax
        mov dword [LPDPT + esi], PD64 | RW
        lea eax, [LPDPT + RW + esi]
        mov [PML4 + esi], eax
        lea eax, [PDPTS + edi]
        mov [roots + ebx * 4], eax
        inc ebx
        cmp ebx, SPACES
        jb .space64
        mov dword [global_mark], 0
        SET_CR4 CR4_PAE
        PAGING_ON PDPTS
        mov ebp, ROUNDS / 2
.pae:   call all_spaces
        dec ebp
        jnz .pae
        ; A pointer entry edited: the processor has a copy until CR3 is loaded.
        mov dword [PDPTS + 8], (PDV + 0x5000) | PTE_P
        mov eax, [roots]
        mov cr3, eax
        CHECK [VIEW], MARK(5 * PAGES), "space 0 with the directory of space 5"
        mov dword [PDPTS + 8], PDV | PTE_P
        mov eax, [roots]
        mov cr3, eax
        CHECK [VIEW], MARK(0), "and with its own"
        PAGING_OFF
        SAY "PAE: 8 rounds over 16 tables of 4 entries in one frame", 10

; -- long mode -------------------------------------------------------------------------------------
        xor ebx, ebx
.root64:
        mov eax, ebx
        shl eax, 12
        add eax, PML4
        mov [roots + ebx * 4], eax
        inc ebx
        cmp ebx, SPACES
        jb .root64
        ENTER_LONG PML4, long_mode
bits 64
long_mode:
        push SEL_CODE32
        push compatibility
        retfq
bits 32
compatibility:
        mov eax, SEL_DATA
        mov ss, ax
        mov ebp, ROUNDS / 2
.round: call all_spaces
        dec ebp
        jnz .round
        SAY "long mode: 8 rounds of 16 switches", 10
        PASSED "context_switch"

; Visit all spaces once: each page has its value, and counts the visit.
all_spaces:
        push ebx
        push esi
        xor ebx, ebx
.space: mov eax, [roots + ebx * 4]
        mov cr3, eax
        mov esi, VIEW
        xor edx, edx
.page:  mov ecx, edx                            ; page p shows frame (p + turned) % 8 of the space
        add ecx, [turned]
        and ecx, PAGES - 1
        lea ecx, [ecx + ebx * PAGES + MARK(0)]
        CHECK [esi], ecx, "a page of a space"
        inc dword [esi + 16]
        add esi, 0x1000
        inc edx
        cmp edx, PAGES
        jb .page
        inc ebx
        cmp ebx, SPACES
        jb .space
        mov eax, [roots]
        mov cr3, eax
        pop esi
        pop ebx
        ret

; The same with a look at the global page in each space.
all_spaces_global:
        push ebx
        xor ebx, ebx
.space: mov eax, [roots + ebx * 4]
        mov cr3, eax
        CHECK [GLOBAL_VIEW], [global_mark], "the global page"
        CHECK [GLOBAL_VIEW + 0x1000], MARK(SPACES * PAGES + 1), "its neighbour"
        inc ebx
        cmp ebx, SPACES
        jb .space
        pop ebx
        jmp all_spaces

; Every space's page p moves on to the next frame of its eight, in tables that do not run now
; and in the one that does.
rotate_all:
        push ebx
        xor ebx, ebx
.space: mov esi, ebx
        shl esi, 12
        add esi, PT
        mov edx, [esi]                          ; A and D go along with the entry
        mov edi, esi
        mov ecx, PAGES - 1
.next:  mov eax, [edi + 4]
        mov [edi], eax
        add edi, 4
        dec ecx
        jnz .next
        mov [edi], edx
        inc ebx
        cmp ebx, SPACES
        jb .space
        pop ebx
        ret

; EAX = sum of the visits that all pages have counted.
count_frames:
        xor eax, eax
        mov esi, FRAMES
        mov ecx, SPACES * PAGES
.next:  add eax, [esi + 16]
        add esi, 0x1000
        dec ecx
        jnz .next
        ret

        KERNEL32_CODE
        LONG_CODE

section .data
        align 4
turned:      dd 0
global_mark: dd MARK(SPACES * PAGES)

section .bss
roots:  resd SPACES
