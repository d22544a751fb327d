; SPDX-License-Identifier: GPL-2.0-or-later
; store: every quadword of 64 KiB is stored to, upward, over and over.

%include "bench.inc"
        org ORIGIN
        bits 32
        MULTIBOOT
        PARAMETER n, 'n', 10            ; passes over the 64 KiB

SIZE    equ 0x10000

start:  BENCH
main64: ZERO FRAMES, SIZE
        mov ecx, [n]
        mov rdx, 0x9e3779b97f4a7c15
        BEGIN
.pass:  mov rdi, FRAMES
        mov esi, SIZE / 64
.line:  mov [rdi], rdx
        mov [rdi + 8], rdx
        mov [rdi + 16], rdx
        mov [rdi + 24], rdx
        mov [rdi + 32], rdx
        mov [rdi + 40], rdx
        mov [rdi + 48], rdx
        mov [rdi + 56], rdx
        add rdx, rsi
        add rdi, 64
        dec esi
        jnz .line
        rol rdx, 5
        dec ecx
        jnz .pass
        END
        xor ebx, ebx
        SUM FRAMES, SIZE
        ANSWER "store"
        BENCH_CODE
