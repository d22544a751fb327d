; SPDX-License-Identifier: GPL-2.0-or-later
; deadlock: the first processor waits, under a lock, for a shootdown to be acknowledged; the other
; one waits for the lock with interrupts off.

%include "inc/tlb32.inc"
        TLB_KERNEL

main:   mov dword [PTE(0)], FRAME(0) | RWU
        mov dword [lock_word], 1
        BEGIN_ORDER take_lock
        WAIT_FOR flag, 1
        call shoot_down
        mov dword [lock_word], 0
        FINISH_ORDER
        SAY "both went on", 10
        ret

shoot_down:
        mov dword [PTE(0)], 0
        invlpg [PAGE(0)]
        mov eax, PAGE(0)
        SHOOT
        ret

take_lock:
        cli
        mov dword [flag], 1
        IF_BUG .spin
        sti
.spin:  pause
        mov eax, 1
        xchg [lock_word], eax
        test eax, eax
        jnz .spin
        mov dword [lock_word], 0
        sti
        ret

        TLB_END
[section .data]
        align 4
lock_word: dd 0
