; SPDX-License-Identifier: GPL-2.0-or-later
; picture: a boot sector that asks VBE for 320 x 200 pixels of 32 bits, draws a sunset into the
; linear framebuffer from protected mode, and reads one pixel of the sun back.

        org 0x7c00
        bits 16
COM1    equ 0x3f8
EXIT_PORT equ 0xf4
INFO    equ 0x1000                      ; ModeInfoBlock
MODE    equ 0x4140                      ; 320 x 200 x 32 (Bochs), with the linear framebuffer
SUN_X   equ 160
SUN_Y   equ 84
SUN     equ 2500                        ; the square of its radius
HORIZON equ 130

        jmp 0:start
start:  xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 0x7c00
        mov ax, 0x4f01                  ; what is the mode like?
        mov cx, MODE
        mov di, INFO
        int 0x10
        cmp ax, 0x004f
        jne failed
        mov ax, 0x4f02                  ; set it
        mov bx, MODE
        int 0x10
        cmp ax, 0x004f
        jne failed
        cli
        lgdt [gdtr]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp 8:draw

failed: mov si, no_mode
.next:  lodsb
        test al, al
        jz .exit
        mov dx, COM1
        out dx, al
        jmp .next
.exit:  mov al, 0x11
        out EXIT_PORT, al
        hlt

        bits 32
draw:   mov ax, 16
        mov ds, ax
        mov es, ax
        mov edi, [INFO + 0x28]          ; the framebuffer
        xor ecx, ecx                    ; y
.row:   xor ebx, ebx                    ; x
        push edi
.pixel: mov eax, ebx
        sub eax, SUN_X
        imul eax, eax
        mov edx, ecx
        sub edx, SUN_Y
        imul edx, edx
        add edx, eax                    ; distance to the middle of the sun, squared
        cmp ecx, HORIZON
        jae .sea
        cmp edx, SUN
        jae .sky
        mov eax, edx                    ; sun: yellow, orange at its edge
        shr eax, 5
        neg eax
        shl eax, 8
        add eax, 0xffff40
        jmp .store
.sky:   mov eax, ecx                    ; red grows towards the horizon
        shl eax, 16
        mov edx, ecx
        shr edx, 1
        shl edx, 8
        lea eax, [eax + edx + 0x100060]
        jmp .store
.sea:   mov eax, ebx                    ; waves
        xor eax, ecx
        and eax, 31
        shl eax, 8
        lea eax, [eax + ecx + 0x100010]
.store: stosd
        inc ebx
        cmp ebx, 320
        jb .pixel
        pop edi
        movzx eax, word [INFO + 0x10]   ; bytes a row
        add edi, eax
        inc ecx
        cmp ecx, 200
        jb .row

        movzx eax, word [INFO + 0x10]
        imul eax, eax, SUN_Y
        add eax, [INFO + 0x28]
        cmp dword [eax + 4 * SUN_X], 0xffff40
        mov esi, done
        mov bl, 0x10
        je .say
        mov esi, wrong
        mov bl, 0x11
.say:   lodsb
        test al, al
        jz .exit
        mov edx, COM1
        out dx, al
        jmp .say
.exit:  mov al, bl
        out EXIT_PORT, al
        hlt

no_mode: db "FAIL: no such mode", 10, 0
wrong:  db "FAIL: the sun is not there", 10, 0
done:   db "picture: the sun sets in 320 x 200 x 32", 10, 0
        align 8
gdt:    dd 0, 0, 0x0000ffff, 0x00cf9b00, 0x0000ffff, 0x00cf9300
gdtr:   dw 23
        dd gdt
        times 510 - ($ - $$) db 0
        dw 0xaa55
