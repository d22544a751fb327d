; SPDX-License-Identifier: GPL-2.0-or-later
; alu: a loop in registers (xorshift and a multiplication), which touches no memory but its code.

%include "bench.inc"
        org ORIGIN
        bits 32
        MULTIBOOT
        PARAMETER n, 'n', 1000          ; turns

start:  BENCH
main64: mov ecx, [n]
        xor ebx, ebx
        mov r9, 0x2545f4914f6cdd1d
        BEGIN
        mov eax, 1
.turn:  mov rdx, rax
        shl rdx, 13
        xor rax, rdx
        mov rdx, rax
        shr rdx, 7
        xor rax, rdx
        mov rdx, rax
        shl rdx, 17
        xor rax, rdx
        mov rdx, rax
        imul rdx, r9
        add rbx, rdx
        dec ecx
        jnz .turn
        END
        ANSWER "alu"
        BENCH_CODE
