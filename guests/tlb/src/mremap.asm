; SPDX-License-Identifier: GPL-2.0-or-later
; mremap: a page moves to another address; its new owner writes to it while another processor can
; still read it by the old address.

%include "inc/tlb64.inc"
        TLB_KERNEL

main:   mov esi, FRAME(0) | RWU
        mov [PTE(0)], rsi
        ORDER64 read_page
        call move_page
        call new_owner
        ORDER64 read_page
        mov eax, PAGE(0)
        SHOOT64
        REPORT "read", [seen]
        ret

move_page:
        mov rax, [PTE(0)]
        mov qword [PTE(0)], 0
        mov [PTE(1)], rax
        invlpg [PAGE(0)]
        IF_BUG .done
        mov eax, PAGE(0)
        SHOOT64
.done:  ret

new_owner:
        mov dword [PAGE(1)], 0x5ec2e7
        ret

read_page:
        mov eax, FAULTED
        mov ebx, .after
        mov eax, [PAGE(0)]
.after: mov [seen], eax
        ret

        TLB_END
