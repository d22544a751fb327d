; SPDX-License-Identifier: GPL-2.0-or-later
; protect_no_flush: a system call takes the right to write to a page and forgets the flush; the
; user goes on writing.

%include "inc/tlb64.inc"
        TLB_KERNEL

main:   mov esi, FRAME(0) | RWU
        mov [PTE(0)], rsi
        mov ecx, 1
        RUN_USER user_write
        call protect_page
        mov ecx, 2
        RUN_USER user_write
        REPORT "page holds", [FRAME(0)]
        ret

protect_page:
        mov rax, [PTE(0)]
        and eax, ~PTE_W
        mov [PTE(0)], rax
        IF_BUG .done
        invlpg [PAGE(0)]
.done:  ret

user_write:
        mov [PAGE(0)], ecx
        int INT80

        TLB_END
