; SPDX-License-Identifier: GPL-2.0-or-later
; demand: paging by a page-fault handler: a heap of zero pages made real when written, copy on
; write after a fork, a user stack that grows, and 32 pages that share 8 frames by the clock
; algorithm on A and D. Every part knows how many faults it must take.

%include "inc/kernel32.inc"
%include "inc/tss32.inc"
        org ORIGIN
        bits 32
        MULTIBOOT

PDA     equ 0x200000                    ; the parent's directory
PDB     equ 0x201000                    ; the child's
PTB     equ 0x202000                    ; the child's table of the heap
KERNEL  equ 0x204000                    ; four tables: identity map of 16 MiB
SWAPPT  equ 0x208000
USERPT  equ 0x209000
TABLES_END equ 0x20a000
ZERO    equ 0x20a000                    ; the page of zeros
POOL    equ 0x400000                    ; frames for everything
DISK    equ 0xc00000                    ; where pages go that are swapped out

HEAP    equ 0x40000000                  ; 2 MiB
HEAP_PAGES equ 512
SWAP    equ 0x50000000
SWAP_PAGES equ 32
SWAP_FRAMES equ 8
ACCESSES equ 500
; What the clock algorithm makes of the accesses: tests/guests/test_images.py has a model of it.
SWAP_FAULTS equ 376
SWAP_WRITES equ 213
USER    equ 0x60000000                  ; code
STACK   equ 0x60400000                  ; the user's stack ends here, and grows down
STACK_PAGES equ 64
DEPTH   equ 200
COW     equ 1 << 9                      ; in an entry: copy on write
INT80   equ 0x80

; Pages %1 to %2 - 1 of the heap get %3 + their number.
%macro WRITES 3
        mov ebx, %1
%%next: mov esi, ebx
        shl esi, 12
        lea eax, [ebx + %3]
        mov [HEAP + esi], eax
        inc ebx
        cmp ebx, %2
        jb %%next
%endmacro
%macro VALUES 4
        mov ebx, %1
%%next: mov esi, ebx
        shl esi, 12
        lea eax, [ebx + %3]
        CHECK [HEAP + esi], eax, %4
        lea eax, [ebx + MARK(0)]
        CHECK [HEAP + esi + 0xffc], eax, %4
        inc ebx
        cmp ebx, %2
        jb %%next
%endmacro
; Run user code until INT 0x80 or a fault that the policy refuses.
%macro RUN_USER 1
        TRY %%back
        push dword SEL_UDATA
        pop ds
        push dword SEL_UDATA
        pop es
        push dword SEL_UDATA
        push dword STACK
        push dword 2
        push dword SEL_UCODE32
        push dword %1
        iretd
%%back: mov dword [fault_resume], 0
%endmacro

start:  KERNEL32
        SAY "demand: paging by a page-fault handler", 10
        CLEAR PDA, ZERO + 0x1000 - PDA
        FILL32 KERNEL, RW, 4096, 0x1000
        mov ebx, PDA
        call hang_kernel
        mov ebx, PDB
        call hang_kernel
        LOAD_TSS32 tss32_stack
        mov eax, XPF
        mov ebx, page_fault
        mov cl, 0x8e
        call set_gate32
        mov eax, INT80
        mov ebx, int80
        mov cl, 0xee
        call set_gate32
        PAGING_ON PDA

; -- a heap, lazily --------------------------------------------------------------------------------
; Pages whose number divides by 3 are read before they are written, all in a scattered order.
        mov dword [policy], heap_fault
        xor ebx, ebx                    ; 0, 7, 14, ... modulo 512
        xor ebp, ebp
.heap:  mov esi, ebx
        shl esi, 12
        add esi, HEAP
        xor edx, edx
        mov eax, ebx
        mov ecx, 3
        div ecx
        test edx, edx
        jnz .write
        CHECK [esi + 0x7fc], 0, "a new page is zero"
.write: lea eax, [ebx + MARK(0)]
        mov [esi], eax
        mov [esi + 0xffc], eax
        add ebx, 7
        and ebx, HEAP_PAGES - 1
        inc ebp
        cmp ebp, HEAP_PAGES
        jb .heap
        CHECK [faults], 171 + 171 + 341, "faults: zero pages read, then written; written at once"
        CHECK [frames_used], HEAP_PAGES + 1, "frames: pages and one table"
        call check_heap
        CHECK [faults], 683, "no more faults"
        ; String instructions make pages on both sides.
        mov dword [faults], 0
        mov esi, HEAP + HEAP_PAGES * 0x1000 + 0x800
        mov edi, HEAP + (HEAP_PAGES + 16) * 0x1000 + 0x400
        mov ecx, 4 * 1024
        rep movsd
        CHECK [faults], 5 + 5, "REP MOVSD over 5 new pages into 5 new ones"
        mov dword [faults], 0
        mov edi, HEAP + (HEAP_PAGES + 32) * 0x1000 + 1
        mov ecx, 3 * 0x1000
        mov al, 0x5a
        rep stosb
        CHECK [faults], 4, "REP STOSB over 4 new pages"
        CHECK [HEAP + (HEAP_PAGES + 35) * 0x1000], 0x5a, "its last byte"
        CHECK [HEAP + (HEAP_PAGES + 32) * 0x1000], 0x5a5a5a00, "its first bytes"
        mov dword [HEAP + (HEAP_PAGES + 41) * 0x1000 - 2], 0x12345678
        CHECK [faults], 6, "one store over the end of a new page"
        CHECK [HEAP + (HEAP_PAGES + 41) * 0x1000 - 2], 0x12345678, "its value"
        SAY "a heap of 2 MiB, zero pages first: 683 faults", 10

; -- fork ------------------------------------------------------------------------------------------
FORKED  equ 64                          ; pages of the heap that the child shares
        mov eax, [PDA + (HEAP >> 22) * 4]
        and eax, ~0xfff
        mov [heap_table], eax
        mov esi, eax
        mov edi, PTB
        mov ecx, FORKED
.share: mov eax, [esi]
        and eax, ~(PTE_W | PTE_D | PTE_A)
        or eax, COW
        mov [esi], eax
        mov [edi], eax
        shr eax, 12
        mov byte [references + eax], 2
        add esi, 4
        add edi, 4
        dec ecx
        jnz .share
        mov dword [PDB + (HEAP >> 22) * 4], PTB | RW
        RELOAD_CR3                      ; the parent lost rights
        mov dword [policy], cow_fault
        mov dword [faults], 0
        mov dword [copies], 0
        mov eax, PDB
        mov cr3, eax
        WRITES 0, 16, 0xc1000000        ; the child writes 0 to 15
        CHECK [faults], 16, "the child's faults"
        CHECK [copies], 16, "pages copied"
        VALUES 0, 16, 0xc1000000, "the child's own pages"
        VALUES 16, 64, MARK(0), "pages still shared, in the child"
        mov eax, PDA
        mov cr3, eax
        VALUES 0, 64, MARK(0), "the parent's pages"
        WRITES 0, 8, 0xba000000         ; now the parent's alone
        CHECK [faults], 24, "faults"
        CHECK [copies], 16, "nothing copied for the last owner"
        WRITES 16, 24, 0xba000000
        CHECK [copies], 24, "the parent's copies"
        mov eax, PDB
        mov cr3, eax
        VALUES 16, 24, MARK(0), "the child's side of what the parent wrote"
        WRITES 16, 24, 0xc1000000
        CHECK [faults], 40, "faults"
        CHECK [copies], 24, "nothing copied for the last owner"
        mov esi, HEAP + 40 * 0x1000
        mov edi, HEAP + 32 * 0x1000
        mov ecx, 4 * 1024
        rep movsd
        CHECK [copies], 28, "REP MOVSD over 4 shared pages"
        CHECK [faults], 44, "its faults"
        CHECK [HEAP + 34 * 0x1000], MARK(42), "what it moved"
        mov eax, PDA
        mov cr3, eax
        VALUES 8, 16, MARK(0), "the parent's pages at last"
        VALUES 16, 24, 0xba000000, "what the parent wrote"
        VALUES 24, 512, MARK(0), "what nobody wrote"
        SAY "copy on write after a fork: 44 faults, 28 copies", 10

; -- the user's stack ------------------------------------------------------------------------------
        mov dword [policy], stack_fault
        mov dword [faults], 0
        mov dword [frames_used], 0
        mov dword [PDA + (USER >> 22) * 4], USERPT | RW | PTE_U
        mov esi, section..user.start
        mov edi, POOL - 0x1000          ; the frame of the user's code
        mov ecx, user_end - user_begin
        rep movsb
        mov dword [USERPT], (POOL - 0x1000) | PTE_P | PTE_U
        mov ecx, DEPTH
        RUN_USER u_recurse
        CHECK [fault_vector], INT80, "the user's program ends"
        CHECK eax, DEPTH * (DEPTH + 1) / 2, "the sum of 1 to 200"
        CHECK [faults], DEPTH * 1024 / 0x1000, "pages of stack"
        mov ecx, DEPTH
        RUN_USER u_recurse
        CHECK eax, DEPTH * (DEPTH + 1) / 2, "once more"
        CHECK [faults], DEPTH * 1024 / 0x1000, "without faults"
        RUN_USER u_wild
        CHECK [fault_vector], XPF, "a user access far below the stack"
        CHECK [fault_error], PF_W | PF_U, "is not granted"
        CHECK [fault_address], STACK - 0x38000, "its CR2"
        SAY "a user stack that grew by 50 pages", 10

; -- swapping --------------------------------------------------------------------------------------
        mov dword [policy], swap_fault
        mov dword [faults], 0
        mov dword [PDA + (SWAP >> 22) * 4], SWAPPT | RW
        CLEAR DISK, SWAP_PAGES * 0x1000
        mov dword [random], 1
        mov ebp, 1
.access:
        mov eax, [random]
        imul eax, eax, 1103515245
        add eax, 12345
        mov [random], eax
        mov ebx, eax
        shr ebx, 16
        and ebx, SWAP_PAGES - 1
        mov esi, ebx
        shl esi, 12
        bt eax, 28
        jc .swap_write
        mov eax, [mirror + ebx * 4]
        CHECK [SWAP + esi + 0x40], eax, "a page that was swapped"
        mov eax, [mirror + ebx * 4]
        CHECK [SWAP + esi + 0xff8], eax, "its end"
        jmp .accessed
.swap_write:
        mov [SWAP + esi + 0x40], ebp
        mov [SWAP + esi + 0xff8], ebp
        mov [mirror + ebx * 4], ebp
.accessed:
        inc ebp
        cmp ebp, ACCESSES
        jbe .access
        CHECK [faults], SWAP_FAULTS, "faults"
        CHECK [writes], SWAP_WRITES, "pages written out"
        SAY "32 pages in 8 frames, clock algorithm over A and D: as the model says", 10
        PASSED "demand"

check_heap:
        VALUES 0, HEAP_PAGES, MARK(0), "the heap"
        ret

hang_kernel:
        mov dword [ebx], KERNEL | RW
        mov dword [ebx + 4], (KERNEL + 0x1000) | RW
        mov dword [ebx + 8], (KERNEL + 0x2000) | RW
        mov dword [ebx + 12], (KERNEL + 0x3000) | RW
        ret

int80:  SOFT_INTERRUPT32 INT80

; -- the handler -----------------------------------------------------------------------------------
; The policy gets EBX = CR2, ECX = error code, EDX = the interrupted code's ESP if that was ring 3;
; carry clear: handled. It may use any register.
page_fault:
        pushad
        push ds
        push es
        mov eax, SEL_DATA
        mov ds, ax
        mov es, ax
        cld
        mov ebx, cr2
        mov ecx, [esp + 40]
        mov edx, [esp + 56]
        call [policy]
        jc .refused
        inc dword [faults]
        pop es
        pop ds
        popad
        add esp, 4
        iretd
.refused:
        pop es
        pop ds
        popad
        push dword XPF
        jmp exception32

; EAX = a frame of zeros.
new_frame:
        inc dword [frames_used]
        mov eax, [next_frame]
        add dword [next_frame], 0x1000
        push ecx
        push edi
        push eax
        mov edi, eax
        mov ecx, 1024
        xor eax, eax
        rep stosd
        pop eax
        pop edi
        pop ecx
        ret

; EDI = address of the table entry of EBX under the loaded directory; the table is made if need be.
entry_of:
        mov edi, cr3
        mov eax, ebx
        shr eax, 22
        lea edi, [edi + eax * 4]
        test byte [edi], PTE_P
        jnz .there
        call new_frame
        or eax, RW
        mov [edi], eax
.there: mov edi, [edi]
        and edi, ~0xfff
        mov eax, ebx
        shr eax, 12
        and eax, 1023
        lea edi, [edi + eax * 4]
        ret

; Read of nothing: the zero page. Write of nothing, or of the zero page: a frame.
heap_fault:
        cmp ebx, HEAP
        jb .refuse
        cmp ebx, HEAP + (4 << 20)
        jae .refuse
        call entry_of
        test ecx, PF_W
        jnz .write
        mov dword [edi], ZERO | RO
        clc
        ret
.write: call new_frame
        or eax, RW
        mov [edi], eax
        test ecx, PF_P
        jz .done
        invlpg [ebx]
.done:  clc
        ret
.refuse:
        stc
        ret

; A write to a shared page: a copy, or the page itself where nobody else has it any more.
cow_fault:
        cmp ecx, PF_P | PF_W
        jne .refuse
        call entry_of
        mov eax, [edi]
        test eax, COW
        jz .refuse
        mov esi, eax
        shr esi, 12
        cmp byte [references + esi], 1
        je .alone
        dec byte [references + esi]
        inc dword [copies]
        shl esi, 12
        call new_frame
        mov edx, eax
        push edi
        mov edi, eax
        mov ecx, 1024
        rep movsd
        pop edi
        mov eax, edx
        shr edx, 12
        mov byte [references + edx], 1
        or eax, RW
        mov [edi], eax
        invlpg [ebx]
        clc
        ret
.alone: and eax, ~COW
        or eax, PTE_W
        mov [edi], eax
        invlpg [ebx]
        clc
        ret
.refuse:
        stc
        ret

; A write of ring 3 at most 32 bytes below its stack pointer.
stack_fault:
        cmp ecx, PF_W | PF_U
        jne .refuse
        cmp ebx, STACK - STACK_PAGES * 0x1000
        jb .refuse
        cmp ebx, STACK
        jae .refuse
        sub edx, 32
        cmp ebx, edx
        jb .refuse
        call entry_of
        call new_frame
        or eax, RW | PTE_U
        mov [edi], eax
        clc
        ret
.refuse:
        stc
        ret

; Take the frame under the clock's hand, or the next one that was not accessed since the hand came
; by; write its page out if it is dirty; read the wanted page in.
swap_fault:
        cmp ebx, SWAP
        jb .refuse
        cmp ebx, SWAP + SWAP_PAGES * 0x1000
        jae .refuse
.sweep: mov edx, [hand]
        mov esi, [held + edx * 4]       ; the page in it, plus one
        dec esi
        js .free
        mov eax, [SWAPPT + esi * 4]
        mov ecx, esi
        shl ecx, 12
        test eax, PTE_A
        jz .evict
        and dword [SWAPPT + esi * 4], ~PTE_A
        invlpg [SWAP + ecx]
        inc edx
        and edx, SWAP_FRAMES - 1
        mov [hand], edx
        jmp .sweep
.evict: mov dword [SWAPPT + esi * 4], 0
        invlpg [SWAP + ecx]
        test eax, PTE_D
        jz .free
        inc dword [writes]
        lea edi, [DISK + ecx]
        and eax, ~0xfff
        mov esi, eax
        mov ecx, 1024
        rep movsd
.free:  mov esi, ebx
        sub esi, SWAP
        shr esi, 12
        lea eax, [esi + 1]
        mov [held + edx * 4], eax
        mov edi, edx
        shl edi, 12
        add edi, POOL + 0x600000        ; far from the heap's frames
        lea eax, [edi + RW]
        mov [SWAPPT + esi * 4], eax
        shl esi, 12
        add esi, DISK
        mov ecx, 1024
        rep movsd
        inc edx
        and edx, SWAP_FRAMES - 1
        mov [hand], edx
        clc
        ret
.refuse:
        stc
        ret

        KERNEL32_CODE
        TSS32_DATA

section .data
        align 4
policy:      dd 0
faults:      dd 0
copies:      dd 0
writes:      dd 0
hand:        dd 0
random:      dd 0
heap_table:  dd 0
frames_used: dd 0
next_frame:  dd POOL

section .bss
held:   resd SWAP_FRAMES
mirror: resd SWAP_PAGES
references:
        resb 0x1000

; ==================================================================================================
section .user vstart=USER
user_begin:
bits 32
; EAX = sum of 1 to ECX, by recursion with 1,024 bytes a level.
u_recurse:
        call u_sum
        int INT80
u_sum:  push ecx
        sub esp, 1016
        xor eax, eax
        mov [esp], ecx
        dec ecx
        jz .last
        call u_sum
.last:  mov ecx, [esp]
        add eax, ecx
        add esp, 1016
        pop ecx
        ret
u_wild: mov dword [STACK - 0x38000], 1
        int INT80
user_end:
