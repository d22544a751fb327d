; SPDX-License-Identifier: GPL-2.0-or-later
; ring3: user mode under 32-bit paging and in long mode: system calls, every page-fault error code,
; exact CR2 for what crosses a page, A and D, privileged instructions, descriptors on supervisor
; pages, CR0.WP, SMEP and SMAP (MMU cases 16 to 18; the QEMU difference of case 29 is masked).

%include "inc/kernel32.inc"
%include "inc/long.inc"
%include "inc/tss32.inc"
        org ORIGIN
        bits 32
        MULTIBOOT

PD      equ 0x200000
K32     equ 0x201000
UT      equ 0x202000                    ; table of the user's pages
GDT1    equ 0x204000                    ; the GDT, page-aligned, two pages long
GDT2    equ 0x205000
PML4    equ 0x206000
LPDPT   equ 0x207000
LPD     equ 0x208000
K64     equ 0x209000
UPDPT   equ 0x20b000                    ; the user's 64-bit tables
UPD     equ 0x20c000
UT64    equ 0x20d000
TABLES_END equ 0x20e000
TSS64   equ 0x20e000
IST1_TOP equ 0x210000
FRAMES  equ 0x300000
%define FRAME(n) (FRAMES + (n) * 0x1000)

USER    equ 0x40000000                  ; page 0: code; 1: stack; then:
P_NONE  equ USER + 0x4000               ; not present
P_SRW   equ USER + 0x5000               ; supervisor, writable
P_SRO   equ USER + 0x6000               ; supervisor, read-only
P_URW   equ USER + 0x7000               ; user, writable
P_URO   equ USER + 0x8000               ; user, read-only
P_RW2   equ USER + 0xa000               ; user, writable, with nothing before and after
P_LOW   equ USER + 0xc000               ; user, writable, before a supervisor page
STACK   equ USER + 0x2000
%define PTE(page) (UT + ((page) - USER) / 0x1000 * 4)
UX      equ PTE_P | PTE_U
UW      equ PTE_P | PTE_U | PTE_W
INT80   equ 0x80

; RUN user code; comes back with the first exception or INT 0x80. Registers go there and back.
%macro RUN 1
        TRY %%back
        push dword SEL_UDATA
        pop ds
        push dword SEL_UDATA
        pop es
        push dword SEL_UDATA
        push dword STACK
        push dword [user_flags]
        push dword SEL_UCODE32
        push dword %1
        iretd
%%back: mov dword [fault_resume], 0
%endmacro

; USER_FAULTS code, vector, error code, CR2, "what"
%macro USER_FAULTS 5
        RUN %1
        CHECK [fault_vector], %2, %5
        CHECK [fault_error], %3, %5
        CHECK [fault_address], %4, %5
        CHECK [fault_cs], SEL_UCODE32, %5
%endmacro
%define RETURNS INT80, 0, 0

start:  KERNEL32
        call make_idt64
        SAY "ring3: user mode, system calls, page faults", 10
        CLEAR PD, TABLES_END - PD
        MARK_FRAMES FRAMES, 16
        mov esi, section..user.start
        mov edi, FRAME(0)
        mov ecx, user_end - user_begin
        rep movsb
        ; The GDT moves to a page of its own, and a second one.
        mov esi, gdt
        mov edi, GDT1
        mov ecx, gdt_end - gdt
        rep movsb
        FILL32 K32, RW, 1024, 0x1000
        call map_user
        mov dword [PD], K32 | RW
        mov dword [PD + 256 * 4], UT | UW
        ; Ring 3 may call gates 0x80, 3 and 4.
        mov eax, INT80
        mov ebx, int80
        mov cl, 0xee
        call set_gate32
        mov byte [idt32 + XBP * 8 + 5], 0xee
        mov byte [idt32 + XOF * 8 + 5], 0xee
        lidt [idtr32]
        call make_tss
        PAGING_ON PD

%include "inc/ring3_faults.inc"
%include "inc/ring3_calls.inc"
%include "inc/ring3_supervisor.inc"
        PAGING_OFF
%include "inc/ring3_long.inc"
        PASSED64 "ring3"

bits 32
int80:  SOFT_INTERRUPT32 INT80

; Pages of the user: entry by entry what the names above say.
map_user:
        mov dword [PTE(USER)], FRAME(0) | UX
        mov dword [PTE(USER + 0x1000)], FRAME(1) | UW
        mov dword [PTE(P_NONE)], 0
        mov dword [PTE(P_SRW)], FRAME(5) | RW
        mov dword [PTE(P_SRO)], FRAME(6) | RO
        mov dword [PTE(P_URW)], FRAME(7) | UW
        mov dword [PTE(P_URO)], FRAME(8) | UX
        mov dword [PTE(P_RW2)], FRAME(10) | UW
        mov dword [PTE(P_LOW)], FRAME(12) | UW
        mov dword [PTE(P_LOW + 0x1000)], FRAME(13) | RW
        ret

; TSS with a permission map: ring 3 may use COM1's ports and no others.
make_tss:
        LOAD_TSS32 tss32_stack
        mov dword [GDT1 + SEL_TSS], 0
        mov edi, tss_map
        mov ecx, 0x81
        mov al, 0xff
        rep stosb
        mov byte [tss_map + COM1 / 8], 0
        mov word [tss32 + 102], tss_map - tss32
        mov esi, gdt + SEL_TSS
        mov edi, GDT1 + SEL_TSS
        movsd
        movsd
        mov word [GDT1 + SEL_TSS], tss_map_end - tss32 - 1
        mov byte [GDT1 + SEL_TSS + 5], 0x89
        lgdt [gdtr_pages]
        mov ax, SEL_TSS
        ltr ax
        ret

        KERNEL32_CODE
        LONG_CODE
        TSS32_DATA

section .data
        align 8
user_flags: dd 2
        dw 0
gdtr_pages: dw 0x1fff
        dd GDT1, 0

; ==================================================================================================
section .user vstart=USER
user_begin:
bits 32
u_return: int INT80
u_read: mov eax, [esi]
        int INT80
u_write:
        mov [esi], eax
        int INT80
u_jump: jmp esi
u_exchange:
        xchg [esi], eax
        int INT80
u_locked:
        lock inc dword [esi]
        int INT80
u_word: mov ax, [esi]
        int INT80
u_push: mov esp, esi
        push dword 0x1234
        int INT80
u_pop:  mov esp, esi
        pop eax
        int INT80
u_call: mov esp, esi
        call u_return
u_ret:  mov esp, esi
        ret
u_pushad:
        mov esp, esi
        pushad
        int INT80
u_movs: rep movsb
        int INT80
u_movsd:
        rep movsd
        int INT80
u_stos: rep stosd
        int INT80
u_data_segment:
        mov ds, ax
        mov edx, [esi]
        int INT80
u_stack_segment:
        mov ss, ax
u_segment_done:
        int INT80
u_read_crs:
        mov eax, cr0
u_load_cr3:
        mov cr3, eax
u_invlpg:
        invlpg [eax]
u_hlt:  hlt
u_cli:  cli
u_lgdt: lgdt [esi]
u_wrmsr:
        wrmsr
u_in:   in al, dx
        int INT80
u_int21:
        int 0x21
u_int3: int3
u_into: mov al, 0x7f
        inc al
        into
u_ud2:  ud2
u_div:  xor ecx, ecx
        div ecx
u_bound:
        bound eax, [esi]
u_far:  jmp SEL_CODE32:u_return
u_step: nop
u_stepped:
        nop
        int INT80
u_far_ret:
        push eax
        push dword u_return
        retf

; Print what ESI points to, through ports that the TSS allows.
u_print:
        lodsb
        test al, al
        jz .done
        mov ah, al
        mov dx, COM1_LSR
.wait:  in al, dx
        test al, LSR_THRE
        jz .wait
        mov al, ah
        mov dx, COM1
        out dx, al
        jmp u_print
.done:  int INT80
u_text: db "user mode prints this itself", 10, 0

; SYSENTER ECX times; EAX counts in the kernel.
        align 4
u_sysenter:
        push ecx
        mov ecx, esp
        mov edx, .back
        sysenter
.back:  pop ecx
        dec ecx
        jnz u_sysenter
        mov ebx, cs
        mov ecx, ss
        int INT80

bits 64
u64_return:
        int INT80
u64_read:
        mov rax, [rsi]
        int INT80
u64_write:
        mov [rsi], rax
        int INT80
u64_jump:
        jmp rsi
u64_movups:
        movups xmm0, [rsi]
        int INT80
u64_store16:
        movups [rsi], xmm0
        int INT80
u64_push:
        mov rsp, rsi
        push rax
        int INT80
u64_ud2:
        ud2
u64_data_segment:
        mov ds, ax
        int INT80
u64_syscall:
        mov r8, rcx
.again: mov r9, 0x600d
        syscall
.back:  cmp rcx, .back
        jne .bad
        dec r8
        jnz .again
        mov ebx, cs
        mov ecx, ss
        int INT80
.bad:   ud2
; From 64-bit user code through the kernel to 32-bit user code.
u64_to_32:
        xor r9d, r9d
        mov r10, u_after_32
        syscall
bits 32
u_after_32:
        mov ebx, cs
        mov ecx, ss
        mov edx, esp
        inc eax                         ; 0x40: a prefix in 64-bit code
        int INT80
.end:
user_end:
