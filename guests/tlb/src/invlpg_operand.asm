; SPDX-License-Identifier: GPL-2.0-or-later
; invlpg_operand: INVLPG flushes the address of the variable that holds the page's address, where
; the page was meant. The page is mapped to another frame and read through the old entry.

%include "inc/tlb64.inc"
        TLB_KERNEL

main:   mov esi, FRAME(0) | RWU
        call map_page
        call read_page
        mov esi, FRAME(1) | RWU
        call map_page
        call read_page
        REPORT "read", edx
        ret

map_page:
        mov [PTE(0)], rsi
        IF_BUG .operand
        mov rax, [address]
        invlpg [rax]
        ret
.operand:
        invlpg [address]
        ret

read_page:
        mov edx, [PAGE(0)]
        ret

        TLB_END
[section .data]
        align 8
address: dq PAGE(0)
