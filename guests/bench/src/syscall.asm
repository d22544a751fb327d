; SPDX-License-Identifier: GPL-2.0-or-later
; syscall: from ring 3 to ring 0 and back, by INT 0x80 (m=0) or by SYSCALL and SYSRET (m=1).

%include "bench.inc"
        org ORIGIN
        bits 32
        MULTIBOOT
        PARAMETER n, 'n', 100           ; system calls
        PARAMETER m, 'm', 0             ; the way

PDPT    equ TABLES
PD      equ TABLES + 0x1000
PT      equ TABLES + 0x2000
USER_STACK      equ USER_VA + 0x2000    ; one page below this

start:  BENCH
main64: ZERO TABLES, 0x3000
        mov qword [PML4 + 8], PDPT | RWA | PTE_U
        mov qword [PDPT], PD | RWA | PTE_U
        mov qword [PD], PT | RWA | PTE_U
        mov qword [PT], FRAMES | RO | PTE_U | PTE_A
        mov rax, (FRAMES + 0x1000) | RWAD | PTE_U
        mov [PT + 8], rax
        mov rsi, user_code
        mov rdi, FRAMES
        mov ecx, user_code_end - user_code
        rep movsb

        mov rax, ring0_stack            ; a 64-bit TSS with nothing but RSP0
        mov [tss64 + 4], rax
        mov word [tss64 + 102], 104
        mov word [gdt + SEL_TSS], 103
        mov rax, tss64
        mov [gdt + SEL_TSS + 2], ax
        shr eax, 16
        mov [gdt + SEL_TSS + 4], al
        mov [gdt + SEL_TSS + 7], ah
        mov byte [gdt + SEL_TSS + 5], 0x89
        mov eax, SEL_TSS
        ltr ax
        GATE 0x80, by_interrupt, 0xee
        mov ecx, MSR_STAR
        xor eax, eax
        mov edx, (0x1b << 16) | SEL_CODE64      ; SYSRET: CS 0x2b, SS 0x23
        wrmsr
        mov ecx, MSR_LSTAR
        mov rax, by_syscall
        mov rdx, rax
        shr rdx, 32
        wrmsr
        mov ecx, MSR_FMASK
        mov eax, 0x200
        xor edx, edx
        wrmsr

        xor ebx, ebx
        mov r12d, [n]
        mov rcx, USER_VA + int_loop - user_code
        cmp dword [m], 0
        je .way
        mov rcx, USER_VA + syscall_loop - user_code
.way:   mov r8, rcx
        BEGIN
        push SEL_UDATA
        mov rax, USER_STACK
        push rax
        push 2
        push SEL_UCODE64
        push r8
        iretq

; The service: RBX = RBX * 31 + RDI. RCX and R11 are the caller's RIP and flags.
service:
        imul rbx, rbx, 31
        add rbx, rdi
        dec r12d
        jz .enough
        ret
.enough:
        END
        ANSWER "syscall"

by_interrupt:
        push rcx
        push r11
        call service
        pop r11
        pop rcx
        iretq

by_syscall:
        mov r10, rsp
        mov rsp, ring0_stack
        push rcx
        push r11
        call service
        pop r11
        pop rcx
        mov rsp, r10
        o64 sysret

; Runs at USER_VA.
user_code:
int_loop:
        lea rdi, [rdi + 1]
        int 0x80
        jmp int_loop
syscall_loop:
        lea rdi, [rdi + 1]
        syscall
        jmp syscall_loop
user_code_end:
        BENCH_CODE
[section .bss]
        alignb 16
tss64:  resb 104
        alignb 16
        resb 0x1000
ring0_stack:
