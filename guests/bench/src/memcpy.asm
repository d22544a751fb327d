; SPDX-License-Identifier: GPL-2.0-or-later
; memcpy: 64 KiB are copied by REP MOVSQ, over and over, there and back.

%include "bench.inc"
        org ORIGIN
        bits 32
        MULTIBOOT
        PARAMETER n, 'n', 10            ; copies

SIZE    equ 0x10000
FROM    equ FRAMES
TO      equ FRAMES + SIZE

start:  BENCH
main64: mov rdi, FROM
        mov ecx, SIZE / 8
        mov eax, 1
.fill:  stosq
        imul rax, rax, 0x01000193
        inc rax
        dec ecx
        jnz .fill
        ZERO TO, SIZE
        mov edx, [n]
        mov r8, FROM
        mov r9, TO
        BEGIN
.copy:  mov rsi, r8
        mov rdi, r9
        mov ecx, SIZE / 8
        add [rsi], rdx                  ; so that every copy counts
        rep movsq
        xchg r8, r9
        dec edx
        jnz .copy
        END
        xor ebx, ebx
        SUM FROM, 2 * SIZE
        ANSWER "memcpy"
        BENCH_CODE
