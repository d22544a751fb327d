; SPDX-License-Identifier: GPL-2.0-or-later
; alias: a page that A entries map, all of them written through, becomes a page table, N times over
; with another page each. Measured: the first access through the new table.

%include "bench.inc"
        org ORIGIN
        bits 32
        MULTIBOOT
        PARAMETER n, 'n', 4             ; pages that become tables, at most 4,096
        PARAMETER a, 'a', 512           ; aliases, a multiple of 512, at most 16,384

PDPT    equ TABLES
PD      equ TABLES + 0x1000             ; the first 32 entries: the aliases
PT      equ TABLES + 0x2000
ALIASES equ USER_VA
VIEW    equ USER_VA + (1 << 30) - (1 << 21)     ; the last entry: the page as table
TARGET  equ FRAMES                      ; what its entries map
PAGES   equ FRAMES + 0x100000           ; the pages that become tables

start:  BENCH
main64: ZERO TABLES, 34 * 0x1000
        mov qword [PML4 + 8], PDPT | RWA
        mov qword [PDPT], PD | RWA
        mov rdi, PD
        mov rax, PT | RWA
        mov ecx, 32
.table: stosq
        add rax, 0x1000
        dec ecx
        jnz .table
        NUMBER_FRAMES 256
        xor ebx, ebx
        mov r12d, [n]
        mov r8, PAGES
.page:  mov rdi, r8
        mov ecx, 512
        xor eax, eax
        rep stosq
        lea rax, [r8 + RWAD]
        mov rdi, PT
        mov ecx, [a]
        rep stosq
        mov rax, PML4
        mov cr3, rax
        mov rsi, ALIASES
        mov ecx, [a]
.touch: add [rsi + 8], rcx
        add rsi, 0x1000
        dec ecx
        jnz .touch
        add rbx, [r8 + 8]
        mov ecx, r12d                   ; its entry 1 maps some frame
        and ecx, 255
        shl ecx, 12
        add ecx, TARGET | RWAD
        mov [r8 + 8], rcx
        lea rax, [r8 + RWA]
        mov [PD + 511 * 8], rax
        mov rsi, VIEW + 0x1000
        BEGIN
        add rbx, [rsi]
        END
        rol rbx, 1
        mov qword [PD + 511 * 8], 0
        invlpg [rsi]
        add r8, 0x1000
        dec r12d
        jnz .page
        ANSWER "alias"
        BENCH_CODE
