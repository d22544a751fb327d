; SPDX-License-Identifier: GPL-2.0-or-later
; chase: loads each of which says where the next one is, in an order without pattern to pages. A
; ring through all lines of 64 bytes of M MiB: line i leads to line (A * i + C) mod 2**k, which
; visits all (Hull and Dobell: C odd, A - 1 a multiple of 4).

%include "bench.inc"
        org ORIGIN
        bits 32
        MULTIBOOT
        PARAMETER n, 'n', 1000          ; loads, to be a multiple of 8
        PARAMETER m, 'm', 4             ; MiB, a power of 2, at most 64

start:  BENCH
main64: mov r8d, [m]
        shl r8d, 14                     ; lines
        dec r8d
        xor ecx, ecx
.link:  imul rax, rcx, 0x0019660d
        add rax, 0x3c6ef35f
        and eax, r8d
        shl rax, 6
        add rax, FRAMES
        mov rdx, rcx
        shl rdx, 6
        mov [rdx + FRAMES], rax
        inc ecx
        cmp ecx, r8d
        jbe .link
        and dword [n], ~7
        mov ecx, [n]
        shr ecx, 3
        xor ebx, ebx
        BEGIN
        mov rax, FRAMES
.eight:
%rep 8
        mov rax, [rax]
        add rbx, rax
%endrep
        dec ecx
        jnz .eight
        END
        ANSWER "chase"
        BENCH_CODE
