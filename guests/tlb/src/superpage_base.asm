; SPDX-License-Identifier: GPL-2.0-or-later
; superpage_base: 512 pages became one large page, which is then unmapped by one INVLPG of its
; first address. The entries of 4 KiB from before are as old as the large page, and stay.

%include "inc/tlb64.inc"
BIG     equ 0x400000
        TLB_KERNEL

main:   xor ecx, ecx
        mov esi, BIG | RWU
.fill:  mov [PTE(0) + rcx * 8], rsi
        add esi, 0x1000
        inc ecx
        cmp ecx, 512
        jb .fill
        mov eax, [PAGE(0)]
        mov eax, [PAGE(3)]
        mov esi, BIG | RWU | PTE_PS
        mov [PDE], rsi                  ; the same frames, the same rights: no flush is due
        mov eax, [PAGE(3)]
        call unmap_superpage
        call read_page
        REPORT "read", edx
        ret

unmap_superpage:
        mov qword [PDE], 0
        invlpg [PAGE(0)]
        IF_BUG .done
        mov rax, cr3
        mov cr3, rax
.done:  ret

read_page:
        mov edx, FAULTED
        MAY_FAULT mov edx, [PAGE(3)]
        ret

        TLB_END
