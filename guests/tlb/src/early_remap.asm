; SPDX-License-Identifier: GPL-2.0-or-later
; early_remap: while the first processor's shootdown is on its way, another one, interrupts off,
; maps the address again and uses it: it still has the entry that the shootdown is about.

%include "inc/tlb32.inc"
        TLB_KERNEL

main:   mov dword [PTE(0)], FRAME(0) | RWU
        ORDER read_page
        BEGIN_ORDER map_again
        WAIT_FOR flag, 1
        call unmap_page
        mov dword [shoot_address], PAGE(0)
        SEND_IPI ICR_OTHERS | VECTOR_SHOOT
        mov dword [flag], 2
        WAIT_FOR acknowledged, [others]
        FINISH_ORDER
        REPORT "read", [seen]
        ret

unmap_page:
        mov dword [PTE(0)], 0
        invlpg [PAGE(0)]
        ret

map_again:
        cli
        mov dword [flag], 1
        WAIT_FOR flag, 2
        IF_BUG .map
        sti                             ; the shootdown first
        WAIT_FOR acknowledged, [others]
        cli
.map:   mov dword [PTE(0)], FRAME(1) | RWU
        call read_page
        sti
        WAIT_FOR acknowledged, [others]
        ret

read_page:
        mov eax, [PAGE(0)]
        mov [seen], eax
        ret

        TLB_END
