; SPDX-License-Identifier: GPL-2.0-or-later
; mprotect_other: the right to write is taken, the system call returns, and a thread on another
; processor writes.

%include "inc/tlb64.inc"
        TLB_KERNEL

main:   mov esi, FRAME(0) | RWU
        mov [PTE(0)], rsi
        mov dword [flag], 1
        ORDER64 write_page
        call protect_page
        RUN_USER user_nothing
        mov dword [flag], 2
        ORDER64 write_page
        REPORT "page holds", [FRAME(0)]
        ret

protect_page:
        mov esi, FRAME(0) | RWU & ~PTE_W
        mov [PTE(0)], rsi
        IF_BUG .done
        invlpg [PAGE(0)]
        mov eax, PAGE(0)
        SHOOT64
.done:  ret

write_page:
        mov eax, [flag]
        mov ebx, .after
        mov [PAGE(0)], eax
.after: ret

        TLB_END
