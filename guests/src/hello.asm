; SPDX-License-Identifier: GPL-2.0-or-later
; hello: what a multiboot loader hands over (multiboot 0.6.96, 3.2 and 3.3), paging off.

%include "inc/multiboot.inc"
%include "inc/serial.inc"
%include "inc/check.inc"
        org ORIGIN
        bits 32
        MULTIBOOT

start:  mov esp, stack_top
        mov [magic], eax
        mov [info], ebx
        SAY "hello, world", 10

        CHECK [magic], MB_LOADED, "EAX at entry"
        SAY "the loader is a multiboot loader", 10

        mov eax, cr0                    ; PE set, PG clear
        and eax, 0x80000001
        CHECK eax, 1, "CR0.PG and CR0.PE"
        pushfd
        pop eax
        and eax, 0x00020200             ; VM and IF
        CHECK eax, 0, "EFLAGS.VM and EFLAGS.IF"
        SAY "protected mode, paging and interrupts off", 10

        ; The bss is all zero, its last byte included.
        mov edi, bss_start
        mov ecx, bss_stop - bss_start
        xor eax, eax
        repe scasb
        CHECK ecx, 0, "bytes of bss after the first one that is not zero"
        SAY "the bss is clear", 10

        ; Memory: mem_lower in KiB, mem_upper in KiB from 1 MiB, and a map that agrees.
        mov ebx, [info]
        mov eax, [ebx]
        and eax, 0x41
        CHECK eax, 0x41, "flags: memory size and memory map"
        mov eax, [ebx + 4]
        cmp eax, 600
        setae al
        movzx eax, al
        CHECK eax, 1, "at least 600 KiB of low memory"
        mov eax, [ebx + 8]
        cmp eax, 4096
        setae al
        movzx eax, al
        CHECK eax, 1, "at least 4 MiB of high memory"
        call find_high_ram
        CHECK eax, 1, "the map has RAM at 1 MiB, as long as mem_upper says"
        SAY "the memory map agrees with the memory size", 10

        ; A20: 0x500 and 0x100500 are different bytes. The second is this image's own: put it back.
        mov dl, [0x100500]
        mov dword [0x500], 0x11111111
        mov byte [0x100500], 0x22
        mov eax, [0x500]
        mov [0x100500], dl
        CHECK eax, 0x11111111, "0x500 after a write to 0x100500"
        SAY "A20 is open", 10

        ; Flat data segments reach everything: write through ES, read through SS.
        mov edi, 0x300000
        mov eax, 0x600df00d
        stosd
        mov ebp, 0x300000
        CHECK [ebp], 0x600df00d, "what ES wrote, through SS"
        SAY "the segments are flat", 10
        PASSED "hello"

; EAX = 1 if an entry of the memory map is RAM, contains 1 MiB, and ends where mem_upper says
; (a loader may round down to a page or count a hole off, never up).
find_high_ram:
        mov esi, [ebx + 48]             ; mmap_addr
        mov ecx, [ebx + 44]             ; mmap_length
        add ecx, esi
.entry: cmp esi, ecx
        jae .none
        cmp dword [esi + 20], 1         ; type: available
        jne .next
        cmp dword [esi + 8], 0          ; base, high half
        jne .next
        mov eax, [esi + 4]
        cmp eax, 0x100000
        ja .next
        add eax, [esi + 12]             ; its end
        sub eax, 0x100000
        jbe .next
        shr eax, 10
        cmp eax, [ebx + 8]
        jb .next
        mov eax, 1
        ret
.next:  add esi, [esi]                  ; size does not count itself
        add esi, 4
        jmp .entry
.none:  xor eax, eax
        ret

        SERIAL 32, e
        CHECK_CODE

section .data
        align 4
magic:  dd 0
info:   dd 0

section .bss
bss_start:
        resb 20000
bss_stop:
        resb 4096
stack_top:
