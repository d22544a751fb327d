; SPDX-License-Identifier: GPL-2.0-or-later
; unmap_operand: a freed page stays usable, as INVLPG names the variable and not the page.

%include "inc/tlb32.inc"
        TLB_KERNEL

main:   mov dword [PTE(0)], FRAME(0) | RWU
        call read_page
        call free_page
        call read_page
        REPORT "read", edx
        ret

free_page:
        mov dword [PTE(0)], 0
        IF_BUG .operand
        mov eax, [address]
        invlpg [eax]
        ret
.operand:
        invlpg [address]
        ret

read_page:
        mov edx, FAULTED
        MAY_FAULT mov edx, [PAGE(0)]
        ret

        TLB_END
[section .data]
        align 4
address: dd PAGE(0)
