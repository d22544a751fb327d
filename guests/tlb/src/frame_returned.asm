; SPDX-License-Identifier: GPL-2.0-or-later
; frame_returned: a system call unmaps a page, returns its frame and gives it to the kernel's own
; data; the user, without a flush in between, reads that.

%include "inc/tlb32.inc"
        TLB_KERNEL

main:   mov dword [PTE(0)], FRAME(0) | RWU
        RUN_USER user_read
        call unmap_page
        call new_owner
        mov edx, FAULTED
        RUN_USER user_read
        REPORT "the user read", edx
        ret

unmap_page:
        mov dword [PTE(0)], 0
        IF_BUG .done
        invlpg [PAGE(0)]
.done:  ret

new_owner:
        mov dword [FRAME(0)], 0x5ec2e7
        ret

user_read:
        mov edx, [PAGE(0)]
        int INT80

        TLB_END
