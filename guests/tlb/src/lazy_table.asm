; SPDX-License-Identifier: GPL-2.0-or-later
; lazy_table: a table is freed and used as data while another processor's caches lead to it. That
; one uses no address below it; but a processor may walk without being asked.

%include "inc/tlb32.inc"
        TLB_KERNEL

main:   mov dword [PTE(0)], FRAME(0) | RWU
        ORDER read_page
        call drop_table
        IF_BUG .free
        mov eax, PAGE(0)
        SHOOT
.free:  call use_frame_as_data
        mov eax, PAGE(0)
        SHOOT
        SAY "done", 10
        ret

drop_table:
        mov dword [PDE], 0
        invlpg [PAGE(0)]
        ret

use_frame_as_data:
        mov dword [TABLE + 4], FRAME(9) | RWU
        ret

read_page:
        mov eax, [PAGE(0)]
        ret

        TLB_END
