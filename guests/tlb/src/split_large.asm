; SPDX-License-Identifier: GPL-2.0-or-later
; split_large: a page of 4 MiB is split in order to protect one piece of it, and not flushed.

%include "inc/tlb32.inc"
BIG     equ 0x400000
        TLB_KERNEL

main:   mov dword [PDE], BIG | RWU | PTE_PS
        mov dword [PAGE(5)], 1
        call protect_piece
        call write_piece
        REPORT "page holds", [PAGE(5)]
        ret

protect_piece:
        FILL32 TABLE, BIG | RWU, 1024, 0x1000
        and dword [PTE(5)], ~PTE_W
        mov dword [PDE], TABLE | RWU
        IF_BUG .done
        invlpg [PAGE(5)]
.done:  ret

write_piece:
        MAY_FAULT mov dword [PAGE(5)], 2
        ret

        TLB_END
