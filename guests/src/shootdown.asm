; SPDX-License-Identifier: GPL-2.0-or-later
; shootdown: the first processor changes page tables that all of them use and tells the others by
; interrupt; who has acknowledged must see the new mapping, and may see the old one until then
; (SDM 3A 4.10.5). Half of the others sleep between orders, half spin. One part needs no shootdown:
; a page that is writable and hot everywhere becomes a table.

%include "inc/kernel32.inc"
%include "inc/smp.inc"
%include "inc/others32.inc"
        org ORIGIN
        bits 32
        MULTIBOOT

DIRECTORY equ 0x200000
K32     equ 0x201000
PT      equ 0x202000                    ; pages from VIEW on
T       equ 0x203000                    ; data, then a table
TABLES_END equ 0x204000
FRAMES  equ 0x300000
%define FRAME(n) (FRAMES + (n) * 0x1000)
OTHERS_CR4 equ CR4_PSE | CR4_PGE
VIEW    equ 0x40000000
ALIAS   equ VIEW + 0x20000              ; T as data
SLOT    equ 0x50000000                  ; T as table
ROUNDS  equ 64
PAGES   equ 8
VECTOR_PAGE equ 0x40                    ; one page changed
VECTOR_ALL  equ 0x41                    ; many did

; Wants error code %1 (NONE: no fault) of every other processor.
%macro CHECK_ALL 2
        mov ebx, 1
%%next: cmp ebx, [cpus]
        jae %%done
        CHECK [errors + ebx * 4], %1, %2
        inc ebx
        jmp %%next
%%done:
%endmacro

start:  KERNEL32
        SAY "shootdown: page tables changed under other processors", 10
        CLEAR DIRECTORY, TABLES_END - DIRECTORY
        MARK_FRAMES FRAMES, 64
        FILL32 K32, RW, 1024, 0x1000
        mov dword [DIRECTORY], K32 | RW
        mov dword [DIRECTORY + (VIEW >> 22) * 4], PT | RW
        mov dword [DIRECTORY + (APIC >> 22) * 4], APIC_PDE
        mov dword [PT + (ALIAS - VIEW) / 0x1000 * 4], T | RW
        GATE VECTOR_PAGE, page_changed
        GATE VECTOR_ALL, all_changed
        GATE VECTOR_WAKE, wake
        SET_CR4 OTHERS_CR4
        PAGING_ON DIRECTORY
        ENABLE_APIC
        mov dword [PT], FRAME(0) | RW
        mov dword [FRAME(0)], 0
        START_OTHERS

; -- one page moved, 64 times, everybody reading all the time --------------------------------------
        call move_pages
        SAY "a page moved 64 times: who acknowledged saw the new one", 10
        mov dword [global], PTE_G       ; CR3 would not do
        call move_pages
        mov dword [global], 0
        SAY "a global page likewise", 10

; -- many pages at once ----------------------------------------------------------------------------
        mov dword [turn], 0
.many:  xor ebx, ebx
.page:  mov eax, ebx
        add eax, [turn]
        and eax, PAGES - 1
        shl eax, 12
        add eax, FRAME(8) | RW
        mov [PT + 4 + ebx * 4], eax
        inc ebx
        cmp ebx, PAGES
        jb .page
        mov dword [acknowledged], 0
        SEND_IPI ICR_OTHERS | VECTOR_ALL
        RELOAD_CR3
        WAIT_FOR acknowledged, [others]
        BEGIN_ORDER look_at_pages
        call look_at_pages
        FINISH_ORDER
        inc dword [turn]
        cmp dword [turn], 16
        jb .many
        SAY "8 pages moved 16 times, CR3 reloaded by interrupt", 10

; -- rights taken ----------------------------------------------------------------------------------
        GATE XPF, others_fault
        mov dword [PT], FRAME(0) | RW
        call shoot
        ORDER write_page
        CHECK_ALL NONE, "the page may be written"
        mov dword [PT], FRAME(0) | RO
        call shoot
        ORDER write_page
        CHECK_ALL PF_P | PF_W, "read-only: a write faults everywhere"
        ORDER read_page
        CHECK_ALL NONE, "read-only: a read does not"
        mov dword [PT], 0
        call shoot
        ORDER read_page
        CHECK_ALL 0, "not present: a read faults everywhere"
        ORDER write_page
        CHECK_ALL PF_W, "not present: a write as well"
        mov dword [PT], FRAME(0) | RW           ; nothing to shoot down
        ORDER write_page
        CHECK_ALL NONE, "present again"
        SAY "rights taken from under everybody", 10

; -- the directory ---------------------------------------------------------------------------------
        mov dword [DIRECTORY + (VIEW >> 22) * 4], PT | RO
        mov dword [acknowledged], 0
        SEND_IPI ICR_OTHERS | VECTOR_ALL
        RELOAD_CR3
        WAIT_FOR acknowledged, [others]
        ORDER write_page
        CHECK_ALL PF_P | PF_W, "read-only by the directory"
        mov dword [DIRECTORY + (VIEW >> 22) * 4], PT | RW
        mov dword [acknowledged], 0
        SEND_IPI ICR_OTHERS | VECTOR_ALL
        RELOAD_CR3
        WAIT_FOR acknowledged, [others]
        ORDER write_page
        CHECK_ALL NONE, "writable by the directory"
        SAY "a directory entry changed under everybody", 10

; -- a page that everybody writes becomes a table --------------------------------------------------
        CLEAR T, 0x1000
        ORDER write_alias                       ; hot and dirty everywhere
        call write_alias_own
        mov dword [DIRECTORY + (SLOT >> 22) * 4], T | RW
        mov eax, [cpus]
        mov [turn], eax
        xor ebx, ebx
.first: mov esi, ebx
        shl esi, 12
        lea eax, [ebx + MARK(16)]
        CHECK [SLOT + esi], eax, "the page as a table"
        inc ebx
        cmp ebx, [cpus]
        jb .first
        mov ebp, 4
.table: add dword [frame_base], 0x1000          ; each processor now rewrites its own entry
        inc dword [first_mark]
        ORDER write_alias
        call write_alias_own
        xor ebx, ebx
.look:  mov esi, ebx
        shl esi, 12
        invlpg [SLOT + esi]
        mov eax, [first_mark]
        add eax, ebx
        CHECK [SLOT + esi], eax, "an entry that another processor wrote by an old mapping"
        inc ebx
        cmp ebx, [cpus]
        jb .look
        dec ebp
        jnz .table
        SAY "a page hot everywhere became a table: every write to it was seen", 10
        PASSED_SMP "shootdown"

; Move VIEW through 8 frames, the number of the round in each, while the others look at it.
move_pages:
        mov dword [stop], 0
        BEGIN_ORDER watch
        mov ebx, ROUNDS
.round: mov ecx, [round]
        inc ecx
        mov eax, ecx
        and eax, 7
        shl eax, 12
        mov [FRAMES + eax], ecx                 ; nobody maps this frame any more
        mov [round], ecx
        add eax, FRAMES + RW
        or eax, [global]
        mov [PT], eax
        call shoot
        CHECK [VIEW], ecx, "this processor sees the new page"
        dec ebx
        jnz .round
        mov dword [stop], 1
        FINISH_ORDER
        ret

; Tell all that page VIEW changed, and wait for them.
shoot:  invlpg [VIEW]
        mov dword [acknowledged], 0
        SEND_IPI ICR_OTHERS | VECTOR_PAGE
        WAIT_FOR acknowledged, [others]
        ret

; -- the others' part ------------------------------------------------------------------------------
page_changed:
        push eax
        invlpg [VIEW]
        mov eax, [round]
        mov [acknowledged_round + ebp * 4], eax
        mov dword [APIC_EOI], 0
        lock inc dword [acknowledged]
        pop eax
        iretd

all_changed:
        push eax
        RELOAD_CR3
        mov dword [APIC_EOI], 0
        lock inc dword [acknowledged]
        pop eax
        iretd

; Look at VIEW until told to stop: never older than acknowledged, never newer than there is.
watch:  mov ecx, [acknowledged_round + ebp * 4]
        mov eax, [VIEW]
        mov edx, [round]
        cmp eax, ecx
        jb .wrong
        cmp eax, edx
        ja .wrong
        pause
        cmp dword [stop], 0
        je watch
        ret
.wrong: CHECK eax, ecx, "another processor saw a page that it had given up"
        CHECK eax, edx, "another processor saw a page before it was there"
        ret

look_at_pages:
        xor ebx, ebx
        mov esi, VIEW + 0x1000
.page:  mov eax, ebx
        add eax, [turn]
        and eax, PAGES - 1
        add eax, MARK(8)
        CHECK [esi], eax, "one of 8 pages"
        add esi, 0x1000
        inc ebx
        cmp ebx, PAGES
        jb .page
        ret

; Accesses that may fault: EBX is where the handler goes on.
write_page:
        mov dword [errors + ebp * 4], NONE
        mov ebx, .after
        mov [VIEW + 0x100 + ebp * 4], ebp
.after: ret
read_page:
        mov dword [errors + ebp * 4], NONE
        mov ebx, .after
        mov eax, [VIEW + 0x100 + ebp * 4]
.after: ret

others_fault:
        test ebp, ebp
        jz .first
        pop dword [errors + ebp * 4]
        mov [esp], ebx
        iretd
.first: push dword XPF
        jmp exception32

; Entry n of T, n being this processor's index, through the mapping as data.
write_alias_own:
        push ebp
        xor ebp, ebp
        call write_alias
        pop ebp
        ret
write_alias:
        mov eax, ebp
        shl eax, 12
        add eax, [frame_base]
        mov [ALIAS + ebp * 4], eax
        ret

        KERNEL32_CODE
        SMP_CODE
        OTHERS_CODE

section .data
        align 4
round:        dd 0
stop:         dd 0
turn:         dd 0
global:       dd 0
acknowledged: dd 0
frame_base:   dd FRAME(16) | RW
first_mark:   dd MARK(16)
acknowledged_round: times MAX_CPUS dd 0
errors:       times MAX_CPUS dd 0
