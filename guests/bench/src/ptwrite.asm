; SPDX-License-Identifier: GPL-2.0-or-later
; ptwrite: the entries of 64 mapped pages are rewritten in turn, to one of two frames each; INVLPG;
; the page is read.

%include "bench.inc"
        org ORIGIN
        bits 32
        MULTIBOOT
        PARAMETER n, 'n', 100           ; entries rewritten

PAGES   equ 64
PDPT    equ TABLES
PD      equ TABLES + 0x1000
PT      equ TABLES + 0x2000

start:  BENCH
main64: ZERO TABLES, 0x3000
        mov qword [PML4 + 8], PDPT | RWA
        mov qword [PDPT], PD | RWA
        mov qword [PD], PT | RWA
        NUMBER_FRAMES 2 * PAGES
        xor ebx, ebx
        mov r12d, [n]
        mov r8, FRAMES | RWA            ; the next entry's value
        xor ecx, ecx                    ; its page
        mov rsi, USER_VA
        BEGIN
.next:  mov [rcx * 8 + PT], r8
        invlpg [rsi]
        add rbx, [rsi]
        rol rbx, 1
        add r8, 0x1000
        add rsi, 0x1000
        inc ecx
        cmp ecx, PAGES
        je .end
.count: dec r12d
        jnz .next
        END
        ANSWER "ptwrite"

.end:   xor ecx, ecx
        mov rsi, USER_VA
        xor r8d, PAGES * 0x1000         ; the other half of the frames
        sub r8, PAGES * 0x1000
        jmp .count
        BENCH_CODE
