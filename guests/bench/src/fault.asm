; SPDX-License-Identifier: GPL-2.0-or-later
; fault: every page of a region is stored to; the page fault's handler fills its entry in, and the
; store is tried again. When the region is full it is emptied, unmeasured. Every page has a frame of
; its own, which the kernel has mapped as well.

%include "bench.inc"
        org ORIGIN
        bits 32
        MULTIBOOT
        PARAMETER n, 'n', 100           ; faults

PAGES   equ 16384                       ; 32 page tables
PDPT    equ TABLES
PD      equ TABLES + 0x1000
PT      equ TABLES + 0x2000

start:  BENCH
main64: ZERO TABLES, 0x2000
        mov qword [PML4 + 8], PDPT | RWA
        mov qword [PDPT], PD | RWA
        mov rdi, PD
        mov rax, PT | RWA
        mov ecx, PAGES / 512
.table: stosq
        add rax, 0x1000
        dec ecx
        jnz .table
        ZERO FRAMES, PAGES * 0x1000
        GATE 14, page_fault, 0x8e
        xor r15d, r15d
        mov r12d, [n]
.fill:  ZERO PT, PAGES * 8
        mov rax, PML4
        mov cr3, rax
        mov ecx, PAGES
        cmp ecx, r12d
        cmova ecx, r12d
        sub r12d, ecx
        mov rsi, USER_VA
        BEGIN
.touch: mov [rsi], rcx
        add rsi, 0x1000
        dec ecx
        jnz .touch
        END
        test r12d, r12d
        jnz .fill
        mov rbx, r15
        mov rsi, FRAMES
        mov ecx, PAGES
.sum:   add rbx, [rsi]
        rol rbx, 1
        add rsi, 0x1000
        dec ecx
        jnz .sum
        ANSWER "fault"

; R15 counts.
page_fault:
        push rax
        push rdx
        mov rax, cr2
        shr rax, 12
        and eax, PAGES - 1
        mov edx, eax
        shl edx, 12
        add edx, FRAMES | RWAD
        mov [rax * 8 + PT], rdx
        inc r15
        pop rdx
        pop rax
        add rsp, 8
        iretq
        BENCH_CODE
