; SPDX-License-Identifier: GPL-2.0-or-later
; smc_smp: code that one processor rewrites while the others run it (cross-modifying code, SDM 3A
; 9.1.3: the others execute CPUID between hearing of it and running it). It is rewritten through
; its own address, an alias and the identity map, by every processor in turn, in mid-loop, a page
; at a time, and by another frame in its place.

%include "inc/kernel32.inc"
%include "inc/smp.inc"
%include "inc/others32.inc"
        org ORIGIN
        bits 32
        MULTIBOOT

DIRECTORY equ 0x200000
K32     equ 0x201000
PT      equ 0x202000
TABLES_END equ 0x203000
FRAME0  equ 0x300000                    ; the code
FRAME1  equ 0x301000                    ; other code for the same address
OTHERS_CR4 equ CR4_PSE
CODE    equ 0x40000000
ALIAS   equ 0x40001000
ROUNDS  equ 120                         ; divides by 3
VECTOR_PAGE equ 0x40

start:  KERNEL32
        SAY "smc_smp: code rewritten under other processors", 10
        CLEAR DIRECTORY, TABLES_END - DIRECTORY
        FILL32 K32, RW, 1024, 0x1000
        mov dword [DIRECTORY], K32 | RW
        mov dword [DIRECTORY + (CODE >> 22) * 4], PT | RW
        mov dword [DIRECTORY + (APIC >> 22) * 4], APIC_PDE
        mov dword [PT], FRAME0 | RW
        mov dword [PT + 4], FRAME0 | RW
        GATE VECTOR_PAGE, page_changed
        GATE VECTOR_WAKE, wake
        SET_CR4 OTHERS_CR4
        PAGING_ON DIRECTORY
        ENABLE_APIC
        START_OTHERS

; -- one writes, all run ---------------------------------------------------------------------------
        mov byte [CODE], 0xb8           ; MOV EAX, imm32
        mov dword [CODE + 1], 0
        mov byte [CODE + 5], 0xc3       ; RET
        mov dword [stop], 0
        BEGIN_ORDER run_each_round
        mov ebx, 1
.round: mov eax, ebx
        xor edx, edx
        mov ecx, 3
        div ecx
        mov edi, [ways + edx * 4]
        mov [edi + 1], ebx
        mov [sequence], ebx
        xor ebp, ebp
        call run_once
        mov ecx, 0
.all:   cmp [results + ecx * 4], ebx
        je .next
        pause
        jmp .all
.next:  inc ecx
        cmp ecx, [cpus]
        jb .all
        inc ebx
        cmp ebx, ROUNDS
        jbe .round
        mov dword [stop], 1
        FINISH_ORDER
        SAY "rewritten 120 times, through three addresses: no processor ran old code", 10

; -- each writes in turn, all run ------------------------------------------------------------------
        mov dword [writer], 0
.turn:  ORDER write_if_writer
        xor ebp, ebp
        call write_if_writer
        ORDER run_order
        xor ebp, ebp
        call run_order
        mov ebx, [writer]
        add ebx, 0x1000
        call check_results
        inc dword [writer]
        mov eax, [writer]
        cmp eax, [cpus]
        jb .turn
        SAY "rewritten by every processor in turn", 10

; -- a loop ended by its writer --------------------------------------------------------------------
        mov ebp, 6
.loop:  mov esi, loop_code
        mov edi, CODE + 0x100
        mov ecx, loop_end - loop_code
        rep movsb
        mov edi, spun
        mov ecx, MAX_CPUS
        xor eax, eax
        rep stosd
        BEGIN_ORDER spin
        mov ecx, 1
.spinning:
        cmp ecx, [cpus]
        jae .patch
        pause
        cmp dword [spun + ecx * 4], 3
        jb .spinning
        inc ecx
        jmp .spinning
; A NOP of two bytes, again until all are out: QEMU with a thread for each processor throws its
; translation away before it makes the store, and may have translated the old jump again by then.
.patch: mov word [ALIAS + 0x100 + loop_jump - loop_code], 0x9066
        pause
        mov eax, [others]
        cmp [arrived], eax
        jne .patch
        dec ebp
        jnz .loop
        SAY "6 loops ended by rewriting their jump", 10

; -- a page of functions ---------------------------------------------------------------------------
        mov ebp, 1
.page:  xor ecx, ecx                    ; the new page, in a buffer: 64 functions of 16 bytes
.build: mov edi, ecx
        shl edi, 4
        mov byte [buffer + edi], 0xb8
        mov eax, ecx
        shl eax, 8
        add eax, ebp
        mov [buffer + edi + 1], eax
        mov byte [buffer + edi + 5], 0xc3
        inc ecx
        cmp ecx, 64
        jb .build
        mov esi, buffer
        mov edi, CODE
        mov ecx, 256
        rep movsd
        mov [version], ebp
        push ebp
        BEGIN_ORDER run_functions
        xor ebp, ebp
        call run_functions
        FINISH_ORDER
        pop ebp
        inc ebp
        cmp ebp, 12
        jb .page
        SAY "a page of 64 functions rewritten 11 times by REP MOVSD", 10

; -- another frame at the same address -------------------------------------------------------------
        mov esi, FRAME0
        mov edi, FRAME1
        mov ecx, 1024
        rep movsd
        mov dword [FRAME0 + 1], 0xf0
        mov dword [FRAME1 + 1], 0xf1
        mov ebp, 8
.frame: xor dword [PT], FRAME0 ^ FRAME1
        invlpg [CODE]
        mov dword [acknowledged], 0
        SEND_IPI ICR_OTHERS | VECTOR_PAGE
        WAIT_FOR acknowledged, [others]
        push ebp
        ORDER run_order
        xor ebp, ebp
        call run_order
        pop ebp
        mov ebx, ebp                    ; 8: the first change, to FRAME1
        and ebx, 1
        xor ebx, 0xf1
        call check_results
        dec ebp
        jnz .frame
        SAY "two frames of code by turns at one address", 10
        PASSED_SMP "smc_smp"

; All results are EBX.
check_results:
        xor ecx, ecx
.next:  CHECK [results + ecx * 4], ebx, "what a processor made of the code"
        inc ecx
        cmp ecx, [cpus]
        jb .next
        ret

; -- every processor's part; EBP: index ------------------------------------------------------------
run_each_round:
        xor edi, edi
.wait:  pause
        cmp dword [stop], 0
        jne .done
        mov eax, [sequence]
        cmp eax, edi
        je .wait
        mov edi, eax
        call run_once
        jmp .wait
.done:  ret

run_order:
run_once:
        push ebx
        xor eax, eax
        cpuid                           ; a serializing instruction
        mov eax, CODE
        call eax
        mov [results + ebp * 4], eax
        pop ebx
        ret

write_if_writer:
        cmp [writer], ebp
        jne .done
        mov eax, ebp
        add eax, 0x1000
        mov [ALIAS + 1], eax
.done:  ret

spin:   mov eax, CODE + 0x100
        jmp eax
; Copied to CODE + 0x100. CPUID serializes each time round.
        align 2
loop_code:
        inc dword [spun + ebp * 4]
        xor eax, eax
        cpuid
        align 2
loop_jump:
        jmp loop_code
        ret
loop_end:

run_functions:
        xor eax, eax
        cpuid
        xor esi, esi
.next:  mov eax, esi
        shl eax, 4
        add eax, CODE
        call eax
        mov ecx, esi
        shl ecx, 8
        add ecx, [version]
        CHECK eax, ecx, "a function of the page"
        add esi, 9
        cmp esi, 64
        jb .next
        ret

page_changed:
        invlpg [CODE]
        mov dword [APIC_EOI], 0
        lock inc dword [acknowledged]
        iretd

        KERNEL32_CODE
        SMP_CODE
        OTHERS_CODE

section .data
        align 4
ways:         dd CODE, ALIAS, FRAME0
sequence:     dd 0
stop:         dd 0
writer:       dd 0
version:      dd 0
acknowledged: dd 0
results:      times MAX_CPUS dd 0
spun:         times MAX_CPUS dd 0

section .bss
        alignb 16
buffer: resb 1024
