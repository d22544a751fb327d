; SPDX-License-Identifier: GPL-2.0-or-later
; chase: loads from random lines of 64 bytes among M MiB. The addresses do not depend on what was
; loaded (a linear congruential generator makes them), so that what is measured is translation and
; not the latency of the host's memory. Line i holds the number i. An eighth as many loads as there
; are lines go before the measured ones, so that a TLB that grows has grown.

%include "bench.inc"
        org ORIGIN
        bits 32
        MULTIBOOT
        PARAMETER n, 'n', 1000          ; loads, to be a multiple of 8
        PARAMETER m, 'm', 4             ; MiB, a power of 2, at most 64

start:  BENCH
main64: mov r8d, [m]
        shl r8d, 14                     ; lines
        mov rdi, FRAMES
        xor ecx, ecx
.line:  mov [rdi], rcx
        add rdi, 64
        inc ecx
        cmp ecx, r8d
        jb .line
        dec r8d
        shl r8d, 6                      ; which bits of an offset are free
        mov r9, 0x5851f42d4c957f2d      ; Knuth's constants for 64 bits
        mov r10, 0x14057b7ef767814f
        mov rsi, FRAMES
        mov ecx, r8d
        shr ecx, 6 + 3 + 3
        xor eax, eax
        call loads
        and dword [n], ~7
        mov ecx, [n]
        shr ecx, 3
        BEGIN
        xor eax, eax
        xor ebx, ebx
        call loads
        END
        ANSWER "chase"

; 8 * ECX loads, from generator state RAX on, added to RBX.
loads:
%rep 8
        imul rax, r9
        add rax, r10
        mov rdx, rax
        shr rdx, 32
        and edx, r8d
        add rbx, [rsi + rdx]
%endrep
        dec ecx
        jnz loads
        ret
        BENCH_CODE
