; SPDX-License-Identifier: GPL-2.0-or-later
; smp_boot: all processors at once in real mode, 32-bit paging, PAE and long mode, over page tables
; that are shared where formats allow: one directory for all in 32-bit paging, one for PAE and long
; mode, and one table for all three (as in mode_mix: doubleword 2k holds an entry, 2k + 1 zero).
; In each of four rounds INIT takes every processor out of the mode it is in, a mode on it starts
; again, and processors of each mode by turns edit the table under all the others (MMU case 20).

%include "inc/kernel32.inc"
%include "inc/long.inc"
%include "inc/smp.inc"
        org ORIGIN
        bits 32
        MULTIBOOT

LOW     equ 0x8000
FRAMES  equ 0x60000
SHARED  equ 0x68000                     ; page of the counter, entry 4 of X
X       equ 0x70000
D32     equ 0x200000
K32     equ 0x201000
PDPT    equ 0x203000
PD64    equ 0x204000
K64     equ 0x205000                    ; two tables
LPDPT   equ 0x207000
PML4    equ 0x208000
TABLES_END equ 0x209000
VIEW    equ 0x400000
KEYS    equ 4
ROUNDS  equ 4
INCREMENTS equ 100                      ; each processor's, each round
PHASE_END equ 0xff

start:  KERNEL32
        call make_idt64
        SAY "smp_boot: real, 32-bit, PAE and long mode at once", 10
        mov esi, section..low.start
        mov edi, LOW
        mov ecx, low_end - low_begin
        rep movsb
        CLEAR D32, TABLES_END - D32
        CLEAR X, 0x1000
        CLEAR SHARED, 0x1000
        MARK_FRAMES FRAMES, 8
        FILL32 K32, RW, 1024, 0x1000
        FILL64 K64, RW, 1024, 0x1000
        mov dword [D32], K32 | RW
        mov dword [D32 + 4], X | RW
        mov dword [D32 + (APIC >> 22) * 4], APIC_PDE
        ENTRY64 PDPT, PD64 | PTE_P
        ENTRY64 PD64, K64 | RW
        ENTRY64 PD64 + 8, (K64 + 0x1000) | RW
        ENTRY64 PD64 + 16, X | RW
        ENTRY64 LPDPT, PD64 | RW
        ENTRY64 PML4, LPDPT | RW
        mov dword [X], (FRAMES + 0x0000) | RW
        mov dword [X + 8], (FRAMES + 0x1000) | RW
        mov dword [X + 16], (FRAMES + 0x2000) | RW
        mov dword [X + 24], (FRAMES + 0x3000) | RW
        mov dword [X + 32], SHARED | RW
        SET_CR4 CR4_PSE
        PAGING_ON D32
        call count_cpus
        mov [cpus], eax
        dec eax
        mov [others], eax
        ENABLE_APIC

next_round:
        mov dword [next_index], 1
        mov dword [arrived], 0
        mov dword [phase], 0
        call start_others
        WAIT_FOR arrived, [others]
        call next_phase                 ; 1: nobody edits yet
        call next_phase                 ; 2: all look and count
        xor esi, esi
.mode:  mov edx, esi                    ; the first other processor in mode ESI, or this one
        sub edx, [round]
        and edx, 3
        jnz .index
        mov edx, 4
.index: cmp edx, [others]
        jbe .editor
        xor edx, edx
.editor:
        mov [editor], edx
        call next_phase                 ; odd: one edits
        mov dword [editor], NONE
        call next_phase                 ; even: all look
        inc esi
        cmp esi, 4
        jb .mode
        mov dword [arrived], 0
        mov dword [phase], PHASE_END
        WAIT_FOR arrived, [others]
        SAY "round "
        mov eax, [round]
        call putdec32
        SAY ": every edit seen in every mode", 10
        inc dword [round]
        cmp dword [round], ROUNDS
        jb next_round

        mov eax, [cpus]
        imul eax, eax, ROUNDS * 5 * INCREMENTS
        CHECK [SHARED + 0x10], eax, "increments through all mappings of the shared page"
        CHECK [edits], ROUNDS * 4, "edits"
        SAY "no increment was lost", 10
        PASSED_SMP "smp_boot"

; One phase with this processor's part in it; returns when all others are through.
next_phase:
        push esi
        mov dword [arrived], 0
        inc dword [phase]
        xor ebp, ebp                    ; index 0
        mov edx, 0x2000
        call one_phase32
        WAIT_FOR arrived, [others]
        pop esi
        ret

; EBP: this processor's index; EDX: bytes from key to key.
one_phase32:
        test byte [phase], 1
        jz look32
        cmp [editor], ebp
        jne .done
        call edit32
.done:  ret

; Move every key's entry on to the next frame.
edit32: xor ebx, ebx
.key:   mov eax, [map + ebx * 4]
        inc eax
        and eax, 7
        mov [map + ebx * 4], eax
        shl eax, 12
        add eax, FRAMES + RW
        mov [X + ebx * 8], eax
        inc ebx
        cmp ebx, KEYS
        jb .key
        inc dword [edits]
        ret

; Look at every key after INVLPG, and count in the shared page.
look32: mov esi, VIEW
        xor ebx, ebx
.key:   mov eax, [map + ebx * 4]
        add eax, MARK(0)
        invlpg [esi]
        CHECK [esi], eax, "a key's value"
        CHECK [esi + 0xffc], eax, "a key's value at the end of the page"
        add esi, edx
        inc ebx
        cmp ebx, KEYS
        jb .key
        mov ecx, INCREMENTS
.count: lock inc dword [esi + 0x10]
        dec ecx
        jnz .count
        ret

; -- the others ------------------------------------------------------------------------------------
; EBP: index. Flat segments, no paging yet.
other32:
        mov eax, SEL_DATA
        mov ds, ax
        mov es, ax
        mov fs, ax
        mov gs, ax
        mov ss, ax
        mov esp, ebp
        shl esp, 12
        add esp, stacks
        lidt [idtr32]
        mov eax, ebp
        add eax, [round]
        and eax, 3
        cmp eax, 1
        je .paging32
        cmp eax, 2
        je .pae
        ENTER_LONG PML4, other64
.paging32:
        SET_CR4 CR4_PSE
        PAGING_ON D32
        mov edx, 0x2000
        jmp .ready
.pae:   SET_CR4 CR4_PAE
        PAGING_ON PDPT
        mov edx, 0x1000
.ready: lock inc dword [arrived]
        xor edi, edi
.wait:  pause
        mov eax, [phase]
        cmp eax, edi
        je .wait
        mov edi, eax
        cmp eax, PHASE_END
        je .end
        call one_phase32
        lock inc dword [arrived]
        jmp .wait
.end:   lock inc dword [arrived]
.stop:  cli
        hlt
        jmp .stop

bits 64
other64:
        mov ebp, ebp
        mov eax, ebp
        shl eax, 12
        add eax, stacks
        mov rsp, rax
        lock inc dword [arrived]
        xor edi, edi
.wait:  pause
        mov eax, [phase]
        cmp eax, edi
        je .wait
        mov edi, eax
        cmp eax, PHASE_END
        je .end
        test al, 1
        jz .look
        cmp [editor], ebp
        jne .done
        xor ebx, ebx
.key:   mov eax, [map + rbx * 4]
        inc eax
        and eax, 7
        mov [map + rbx * 4], eax
        shl eax, 12
        add eax, FRAMES + RW
        mov [X + rbx * 8], rax
        inc ebx
        cmp ebx, KEYS
        jb .key
        inc dword [edits]
        jmp .done
.look:  mov esi, VIEW
        xor ebx, ebx
.again: mov ecx, [map + rbx * 4]
        add ecx, MARK(0)
        invlpg [rsi]
        mov eax, [rsi]
        CHECK64 rax, rcx, "a key's value in long mode"
        add esi, 0x1000
        inc ebx
        cmp ebx, KEYS
        jb .again
        mov ecx, INCREMENTS
.count: lock inc dword [rsi + 0x10]
        dec ecx
        jnz .count
.done:  lock inc dword [arrived]
        jmp .wait
.end:   lock inc dword [arrived]
.stop:  cli
        hlt
        jmp .stop

        KERNEL32_CODE
        LONG_CODE
        SMP_CODE

section .bss
        alignb 16
        resb 0x1000
stacks: resb MAX_CPUS * 0x1000          ; the processor with index n begins at stacks + n * 0x1000

; ==================================================================================================
section .low vstart=LOW
low_begin:
bits 16
        cli                             ; CS = 0x800, IP = 0
        jmp 0:other16
other16:
        xor ax, ax
        mov ds, ax
        mov ss, ax
        ; INIT: no paging is left over.
        mov eax, cr0
        and eax, ~0x60000000            ; INIT keeps CD and NW
        cmp eax, 0x10
        jne failed16
        mov eax, cr3
        test eax, eax
        jnz failed16
        mov eax, cr4
        test eax, eax
        jnz failed16
        mov ecx, MSR_EFER
        rdmsr
        test eax, eax
        jnz failed16
        mov ebp, 1
        lock xadd [next_index], ebp
        mov ax, bp
        shl ax, 9
        neg ax
        add ax, 0x7000
        mov sp, ax
        mov ax, bp
        add ax, [round]
        and ax, 3
        jz real_mode
        o32 lgdt [low_gdtr]
        mov eax, cr0
        or al, CR0_PE
        mov cr0, eax
        jmp dword SEL_CODE32:other32

real_mode:
        lock inc dword [arrived]
        xor edi, edi
.wait:  pause
        mov eax, [phase]
        cmp eax, edi
        je .wait
        mov edi, eax
        cmp eax, PHASE_END
        je .end
        test al, 1
        jz .look
        cmp [editor], ebp
        jne .done
        mov ax, X >> 4
        mov es, ax
        xor bx, bx
.key:   mov eax, [map + bx]
        inc eax
        and eax, 7
        mov [map + bx], eax
        shl eax, 12
        add eax, FRAMES + RW
        mov si, bx
        add si, si
        mov [es:si], eax                ; a live table of the others
        add bx, 4
        cmp bx, KEYS * 4
        jb .key
        inc dword [edits]
        jmp .done
.look:  xor bx, bx
.again: mov eax, [map + bx]
        mov ecx, eax
        shl ax, 8
        add ax, FRAMES >> 4
        mov es, ax
        add ecx, MARK(0)
        cmp [es:0], ecx
        jne failed16
        add bx, 4
        cmp bx, KEYS * 4
        jb .again
        mov ax, SHARED >> 4
        mov es, ax
        mov cx, INCREMENTS
.count: lock inc dword [es:0x10]
        dec cx
        jnz .count
.done:  lock inc dword [arrived]
        jmp .wait
.end:   lock inc dword [arrived]
.stop:  cli
        hlt
        jmp .stop

failed16:
        mov si, failed_text
        call puts16
        mov al, EXIT_FAILED
        jmp exit16

        SERIAL 16, e

        align 8
next_index: dd 1
arrived:    dd 0
phase:      dd 0
editor:     dd NONE
round:      dd 0
edits:      dd 0
map:        dd 0, 1, 2, 3
cpus:       dd 0
others:     dd 0
            dw 0
low_gdtr:   dw gdt_end - gdt - 1
            dd gdt
failed_text: db "FAIL in real mode", 10, 0
low_end:
