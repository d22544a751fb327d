; SPDX-License-Identifier: GPL-2.0-or-later
; tables_early: a table is freed, and used as data, before the shootdown: another processor's walk
; goes through it.

%include "inc/tlb64.inc"
        TLB_KERNEL

main:   mov esi, FRAME(0) | RWU
        mov [PTE(0)], rsi
        mov dword [flag], PAGE(0)
        ORDER64 read_page
        call drop_table
        IF_BUG .free
        mov eax, PAGE(0)
        SHOOT64
.free:  call use_frame_as_data
        mov dword [flag], PAGE(3)
        ORDER64 read_page
        mov eax, PAGE(0)
        SHOOT64
        REPORT "read", [seen]
        ret

drop_table:
        mov qword [PDE], 0
        invlpg [PAGE(0)]
        ret

use_frame_as_data:
        mov esi, FRAME(9) | RWU
        mov [TABLE + 3 * 8], rsi
        ret

read_page:
        mov ecx, [flag]
        mov eax, FAULTED
        mov ebx, .after
        mov eax, [rcx]
.after: mov [seen], eax
        ret

        TLB_END
