; SPDX-License-Identifier: GPL-2.0-or-later
; fork: an address space is built (four tables cleared, 64 entries copied from the parent), entered,
; its 64 pages are read and written, it is left and its entries are cleared. Its tables come from a
; small pool of frames in turn, so that a frame that was a table is soon cleared to be one again.

%include "bench.inc"
        org ORIGIN
        bits 32
        MULTIBOOT
        PARAMETER n, 'n', 10            ; address spaces

PAGES   equ 64
SPARE   equ 16                          ; address spaces' worth of frames in the pool
PARENT  equ TABLES                      ; the parent's page table
CHILD   equ TABLES + 0x1000             ; 16 KiB each: PML4, PDPT, PD, PT

start:  BENCH
main64: ZERO PARENT, 0x1000
        ZERO CHILD, SPARE * 0x4000
        NUMBER_FRAMES PAGES
        mov rdi, PARENT
        mov rax, FRAMES | RWAD | PTE_U
        mov ecx, PAGES
.parent:
        stosq
        add rax, 0x1000
        dec ecx
        jnz .parent
        xor ebx, ebx
        mov r12d, [n]
        mov r14d, 2                     ; two before it is measured
        call forks
        BEGIN
        mov r14d, r12d
        call forks
        END
        ANSWER "fork"

; R14D address spaces, adding up in RBX.
forks:
.pool:  mov r8, CHILD
        mov r9d, SPARE
.child: mov rdi, r8
        mov ecx, 0x4000 / 8
        xor eax, eax
        rep stosq
        mov rax, [PML4]
        mov [r8], rax
        lea rax, [r8 + 0x1000 + RWA + PTE_U]
        mov [r8 + 8], rax
        add rax, 0x1000
        mov [r8 + 0x1000], rax
        add rax, 0x1000
        mov [r8 + 0x2000], rax
        mov rsi, PARENT
        lea rdi, [r8 + 0x3000]
        mov ecx, PAGES
.copy:  mov rax, [rsi]
        mov [rdi], rax
        add rsi, 8
        add rdi, 8
        dec ecx
        jnz .copy

        mov cr3, r8
        mov rsi, USER_VA
        mov ecx, PAGES
.use:   mov rax, [rsi]
        add rbx, rax
        rol rbx, 1
        add [rsi + 8], rcx
        add rsi, 0x1000
        dec ecx
        jnz .use

        mov rax, PML4
        mov cr3, rax
        lea rdi, [r8 + 0x3000]
        mov ecx, PAGES
.drop:  mov qword [rdi], 0
        add rdi, 8
        dec ecx
        jnz .drop
        dec r14d
        jz .done
        add r8, 0x4000
        dec r9d
        jnz .child
        jmp .pool
.done:  ret
        BENCH_CODE
