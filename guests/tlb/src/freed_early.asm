; SPDX-License-Identifier: GPL-2.0-or-later
; freed_early: a frame goes back to the allocator, and to its next owner, before the shootdown.

%include "inc/tlb32.inc"
        TLB_KERNEL

main:   mov dword [PTE(0)], FRAME(0) | RWU
        ORDER read_page
        call unmap_page
        IF_BUG .free
        mov eax, PAGE(0)
        SHOOT
.free:  call new_owner
        ORDER read_page
        mov eax, PAGE(0)
        SHOOT
        REPORT "read", [seen]
        ret

unmap_page:
        mov dword [PTE(0)], 0
        invlpg [PAGE(0)]
        ret

new_owner:
        mov dword [PTE(7)], FRAME(0) | RWU
        mov dword [PAGE(7)], 0x5ec2e7
        ret

read_page:
        mov eax, FAULTED
        mov ebx, .after
        mov eax, [PAGE(0)]
.after: mov [seen], eax
        ret

        TLB_END
