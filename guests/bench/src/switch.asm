; SPDX-License-Identifier: GPL-2.0-or-later
; switch: address spaces in turn, W pages touched after each MOV CR3. Every space has four tables
; of its own, and the kernel in common. One round over all of them goes before the measured ones.

%include "bench.inc"
        org ORIGIN
        bits 32
        MULTIBOOT
        PARAMETER n, 'n', 100           ; switches
        PARAMETER s, 's', 16            ; address spaces, at most 4,096
        PARAMETER w, 'w', 64            ; pages touched, 1 to 512

DATA_FRAMES     equ 8192                ; 32 MiB, shared where they do not suffice
SPACES  equ FRAMES + DATA_FRAMES * 0x1000       ; 16 KiB each: PML4, PDPT, PD, PT

start:  BENCH
main64: NUMBER_FRAMES DATA_FRAMES
        mov ecx, [s]
        shl ecx, 14 - 3
        mov rdi, SPACES
        xor eax, eax
        rep stosq
        mov r8, SPACES
        mov r9d, [s]
        xor r10d, r10d                  ; next data frame
.space: mov qword [r8], KPDPT | RWA
        lea rax, [r8 + 0x1000 + RWA]
        mov [r8 + 8], rax
        add rax, 0x1000
        mov [r8 + 0x1000], rax
        add rax, 0x1000
        mov [r8 + 0x2000], rax
        xor ecx, ecx
.page:  mov eax, r10d
        and eax, DATA_FRAMES - 1
        shl rax, 12
        add rax, FRAMES | RW
        mov [r8 + 0x3000 + rcx * 8], rax
        inc r10d
        inc ecx
        cmp ecx, [w]
        jb .page
        add r8, 0x4000
        dec r9d
        jnz .space

        xor ebx, ebx
        mov r12d, [s]
        call switches                   ; warm
        mov r12d, [n]
        BEGIN
        call switches
        END
        mov rax, PML4
        mov cr3, rax
        ANSWER "switch"

; R12D switches round and round, adding up in RBX.
switches:
        mov rdi, USER_VA
        mov r11d, [w]
.first: mov r8, SPACES
        mov r9d, [s]
.next:  mov cr3, r8
        mov rsi, rdi
        mov ecx, r11d
.touch: add rbx, [rsi]
        add rsi, 0x1000
        dec ecx
        jnz .touch
        rol rbx, 1
        dec r12d
        jz .done
        add r8, 0x4000
        dec r9d
        jnz .next
        jmp .first
.done:  ret
        BENCH_CODE
