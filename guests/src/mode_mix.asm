; SPDX-License-Identifier: GPL-2.0-or-later
; mode_mix: real mode, 32-bit paging, PAE, long mode and back, round and round, over one frame X
; that is a table of every kind (MMU cases 15 and 28). Doubleword 2k of X holds an entry and
; doubleword 2k + 1 is zero: to 32-bit paging entry 2k, to PAE and long mode entry k. Each mode
; checks what the others left, then moves every entry on by one frame; real mode does so too.

%include "inc/kernel32.inc"
%include "inc/long.inc"
%include "inc/tss32.inc"
        org ORIGIN
        bits 32
        MULTIBOOT_AOUT

LOW     equ 0x8000                      ; real-mode code runs here
FRAMES  equ 0x60000
X       equ 0x70000
%define FRAME(n) (FRAMES + (n) * 0x1000)
V86_PAGE equ 0x68000                    ; mapped to frame 3

D32     equ 0x200000                    ; 32-bit: directory, identity table
K32     equ 0x201000
T32     equ 0x202000
PDPT    equ 0x203000                    ; PAE
PD64    equ 0x204000                    ; directory of PAE and of long mode at once
K64     equ 0x205000                    ; two tables
LPDPT   equ 0x207000                    ; long mode
PML4    equ 0x208000
T64     equ 0x209000
TABLES_END equ 0x20a000

VIEW    equ 0x400000                    ; X's pages, in every mode
HIGH    equ 0xffff800000000000          ; long mode sees all once more up here
KEYS    equ 4
ROUNDS  equ 3

start:  mov esp, 0x7000                 ; a stack that real mode can use as well
        LOAD_SEGMENTS32
        call load_idt32
        call make_idt64
        LOAD_TSS32 tss32_stack
        SAY "mode_mix: one page, a table of every kind", 10
        mov esi, section..low.start
        mov edi, LOW
        mov ecx, low_end - low_begin
        rep movsb
        CLEAR D32, TABLES_END - D32
        CLEAR X, 0x1000
        MARK_FRAMES FRAMES, 8
        FILL32 K32, RW | PTE_U, 1024, 0x1000
        mov dword [K32 + (V86_PAGE >> 12) * 4], FRAME(3) | RW | PTE_U
        FILL64 K64, RW, 1024, 0x1000
        mov dword [D32], K32 | RW | PTE_U
        mov dword [D32 + 4], X | RW
        ENTRY64 PDPT, PD64 | PTE_P
        ENTRY64 PD64, K64 | RW
        ENTRY64 PD64 + 8, (K64 + 0x1000) | RW
        ENTRY64 PD64 + 16, X | RW
        ENTRY64 LPDPT, PD64 | RW
        ENTRY64 PML4, LPDPT | RW
        ENTRY64 PML4 + 256 * 8, LPDPT | RW

next_round:
        lidt [ivt]
        jmp SEL_CODE16:leave_protected

; ==================================================================================================
section .low vstart=LOW
low_begin:
bits 16
leave_protected:
        mov ax, SEL_DATA16
        mov ds, ax
        mov es, ax
        mov fs, ax
        mov gs, ax
        mov ss, ax
        mov eax, cr0
        and al, ~CR0_PE & 0xff
        mov cr0, eax
        jmp word 0:real_mode

real_mode:
        xor ax, ax
        mov ds, ax
        mov ss, ax
        mov gs, ax
        ; Interrupts go through the table at 0.
        mov word [0x60 * 4], int60
        mov word [0x60 * 4 + 2], 0
        mov cx, 0x1234
        int 0x60
        cmp cx, 0x1235
        jne real_failed
        ; Each frame's value by segment, one count for each, and every entry of X moved on.
        mov ax, X >> 4
        mov es, ax
        xor bx, bx
.key:   mov ax, [map + bx]              ; frame's number, one word for each key
        mov dx, ax
        shl ax, 8
        add ax, FRAMES >> 4
        mov fs, ax
        movzx edx, dx
        add edx, MARK(0)
        cmp [fs:0], edx
        jne real_failed
        inc dword [fs:8]
        inc word [checks16]
        mov ax, [map + bx]
        inc ax
        and ax, 7
        mov [map + bx], ax
        movzx eax, ax
        shl eax, 12
        add eax, FRAMES + RW
        mov si, bx
        shl si, 2
        mov [es:si], eax
        add bx, 2
        cmp bx, KEYS * 2
        jb .key
        inc word [visits]
        o32 lgdt [low_gdtr]
        mov eax, cr0
        or al, CR0_PE
        mov cr0, eax
        jmp dword SEL_CODE32:protected

real_failed:
        mov si, real_failed_text
        call puts16
        mov al, EXIT_FAILED
        jmp exit16

int60:  inc cx
        iret

; 16-bit protected mode under 32-bit paging: a 32-bit address, with the flat data segment.
protected16:
        mov ebx, VIEW
        mov ecx, [ebx]
        mov ax, SEL_DATA16
        mov es, ax
        add ecx, [es:low_one]
        jmp dword SEL_CODE32:back_from_16

; Virtual-8086 mode: read through the page, answer behind it, leave by a privileged instruction.
v86:    mov ax, V86_PAGE >> 4
        mov ds, ax
        mov eax, [0]
        not eax
        mov [12], eax
v86_hlt:
        hlt
        jmp v86_hlt

        SERIAL 16, e

        align 4
low_one:  dd 1
map:      dw 0, 1, 2, 3
visits:   dw 0
checks16: dw 0
        dw 0
low_gdtr: dw gdt_end - gdt - 1
          dd gdt
real_failed_text:
        db "FAIL in real mode", 10, 0
low_end:

; ==================================================================================================
section .text
bits 32
protected:
        mov eax, SEL_DATA
        mov ds, ax
        mov es, ax
        mov fs, ax
        mov gs, ax
        mov ss, ax
        lidt [idtr32]
        CHECK [fs:FRAMES], MARK(0), "frame 0, paging off"

; -- 32-bit paging ---------------------------------------------------------------------------------
        PAGING_ON D32
        mov edx, 0x2000                 ; entry 2k is key k
        call visit
        FAULTS XPF, 0, VIEW + 0x1000, "entry 1 is PAE's entry 0, high half", mov eax, [VIEW + 0x1000]
        jmp SEL_CODE16:protected16
back_from_16:
        movzx eax, word [map]
        add eax, MARK(0) + 1
        CHECK ecx, eax, "16-bit protected mode saw key 0"
        mov dword [FRAME(3) + 12], 0
        TRY .v86_left
        push dword 0                    ; GS, FS, DS, ES
        push dword 0
        push dword 0
        push dword 0
        push dword 0                    ; SS:ESP
        push dword 0x6000
        push dword 0x00020002           ; EFLAGS.VM, IOPL 0
        push dword 0
        push dword v86
        iretd
.v86_left:
        mov dword [fault_resume], 0
        CHECK [fault_vector], XGP, "HLT in virtual-8086 mode"
        CHECK [fault_error], 0, "its error code"
        CHECK [fault_ip], v86_hlt, "its IP"
        CHECK [FRAME(3) + 12], ~MARK(3) & 0xffffffff, "what virtual-8086 mode wrote"
        mov dword [FRAME(3) + 12], 0
        PAGING_OFF

; -- PAE -------------------------------------------------------------------------------------------
        SET_CR4 CR4_PAE
        PAGING_ON PDPT
        mov edx, 0x1000                 ; entry k is key k
        call visit
        PAGING_OFF

; -- long mode -------------------------------------------------------------------------------------
        ENTER_LONG PML4, long_mode
bits 64
long_mode:
        mov r8d, VIEW
        call visit64
        mov r8, HIGH + VIEW             ; the same tables from the top table's other half
        call visit64
        push SEL_CODE32
        push compatibility
        retfq

; -- compatibility mode, then out of long mode -----------------------------------------------------
bits 32
compatibility:
        mov eax, SEL_DATA
        mov ss, ax
        mov edx, 0x1000
        call visit
        PAGING_OFF
        mov ecx, MSR_EFER
        rdmsr
        and eax, EFER_LMA
        CHECK eax, 0, "EFER.LMA with paging off"
        mov ecx, MSR_EFER
        rdmsr
        and eax, ~EFER_LME
        wrmsr
        lidt [idtr32]
        PAGING_ON PDPT                  ; PAE again, straight from long mode's tables
        mov edx, 0x1000
        call visit
        PAGING_OFF
        CLEAR_CR4 CR4_PAE
        dec dword [rounds]
        jnz next_round

; Seven visits a round, each counted every key once, in whatever frame it had then.
        movzx eax, word [visits]
        CHECK eax, ROUNDS * 7, "visits"
        xor eax, eax
        xor ecx, ecx
.sum:   add eax, [FRAMES + 8 + ecx]
        add ecx, 0x1000
        cmp ecx, 0x8000
        jb .sum
        CHECK eax, ROUNDS * 7 * KEYS, "writes through the page"
        movzx eax, word [map]
        CHECK eax, (ROUNDS * 7) & 7, "frame of key 0 at last"
        movzx eax, word [checks16]
        add [checks], eax
        SAY "3 rounds of real, 32-bit, PAE, long, compatibility, PAE: every edit seen in the next", 10
%include "inc/mode_roles.inc"
        PASSED "mode_mix"

; Check all keys at VIEW, count in their pages, and move their entries on. EDX: bytes from key to
; key; 32-bit code of any paging mode.
visit:  mov esi, VIEW
        xor ebx, ebx
.key:   movzx eax, word [map + ebx * 2]
        lea ecx, [eax + MARK(0)]
        CHECK [esi], ecx, "a key's value"
        CHECK [esi + 0xffc], ecx, "a key's value at the end of the page"
        inc dword [esi + 8]
        inc eax
        and eax, 7
        mov [map + ebx * 2], ax
        lea ecx, [eax + MARK(0)]
        shl eax, 12
        add eax, FRAMES + RW
        mov [X + ebx * 8], eax
        invlpg [esi]
        CHECK [esi], ecx, "a key's value after its edit"
        CHECK [X + ebx * 8 + 4], 0, "the high half of its entry"
        add esi, edx
        inc ebx
        cmp ebx, KEYS
        jb .key
        inc word [visits]
        ret

; The same in 64-bit code, at R8.
bits 64
visit64:
        xor ebx, ebx
.key:   movzx eax, word [map + rbx * 2]
        lea ecx, [rax + MARK(0)]
        mov edi, [r8]
        CHECK64 rdi, rcx, "a key's value in long mode"
        inc dword [r8 + 8]
        inc eax
        and eax, 7
        mov [map + rbx * 2], ax
        lea ecx, [rax + MARK(0)]
        shl eax, 12
        add eax, FRAMES + RW
        mov [X + rbx * 8], rax
        invlpg [r8]
        mov rdx, HIGH                   ; the key's other address has a translation of its own
        xor rdx, r8
        invlpg [rdx]
        mov edi, [r8]
        CHECK64 rdi, rcx, "a key's value in long mode after its edit"
        add r8, 0x1000
        inc ebx
        cmp ebx, KEYS
        jb .key
        inc word [visits]
        ret

        KERNEL32_CODE
        LONG_CODE
        TSS32_DATA

section .data
        align 8
        dw 0
ivt:    dw 0x3ff
        dd 0
rounds: dd ROUNDS
