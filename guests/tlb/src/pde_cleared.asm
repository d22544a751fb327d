; SPDX-License-Identifier: GPL-2.0-or-later
; pde_cleared: a directory entry is cleared without an INVLPG, its table becomes data, a new table
; takes its place: the next walk still goes through the old one.

%include "inc/tlb32.inc"
        TLB_KERNEL

main:   mov dword [PTE(0)], FRAME(0) | RWU
        mov eax, [PAGE(0)]
        call drop_table
        call use_frame_as_data
        mov dword [SPARE + 4], FRAME(2) | RWU
        mov dword [PDE], SPARE | RWU
        call read_page
        REPORT "read", edx
        ret

drop_table:
        mov dword [PDE], 0
        IF_BUG .done
        invlpg [PAGE(0)]
.done:  ret

use_frame_as_data:
        mov dword [TABLE + 4], FRAME(1) | RWU
        ret

read_page:
        mov edx, FAULTED
        MAY_FAULT mov edx, [PAGE(1)]
        ret

        TLB_END
