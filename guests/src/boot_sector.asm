; SPDX-License-Identifier: GPL-2.0-or-later
; boot_sector: 512 bytes at 0x7c00 that ask the BIOS for what they need: text (INT 10h), memory (12h,
; 15h E820), disk (13h), keyboard (16h); then a step into 32-bit protected mode and a page table.
; It prints by teletype and over COM1. Boots from floppy (DL = 0) and hard disk (DL = 0x80).

        org 0x7c00
        bits 16
COM1    equ 0x3f8
EXIT_PORT equ 0xf4
COPY    equ 0x1000                      ; where this sector is read to once more
MAP     equ 0x1400                      ; one entry of the memory map
SERVICES equ 0x1500                     ; the next name to print; not in the sector, which is compared
PD      equ 0x2000
PT      equ 0x3000

        jmp 0:start                     ; CS may be 0x7c0
start:  xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 0x7c00
        sti
        cld
        mov word [SERVICES], names
        mov si, hello
        call say

        ; Memory below 1 MiB in KiB.
        int 0x12
        cmp ax, 640
        ja .failed
        cmp ax, 512
        jb .failed
        call passed                     ; 12h

        ; This sector again: cylinder 0, head 0, sector 1.
        mov ax, 0x0201
        mov bx, COPY
        mov cx, 1
        mov dh, 0
        int 0x13
        jc .failed
        mov si, 0x7c00
        mov di, COPY
        mov cx, 256
        repe cmpsw
        jne .failed
        call passed                     ; 13h

        ; The memory map: RAM from 1 MiB on.
        xor ebx, ebx
.entry: mov eax, 0xe820
        mov edx, 0x534d4150             ; SMAP
        mov ecx, 20
        mov di, MAP
        int 0x15
        jc .failed
        cmp eax, 0x534d4150
        jne .failed
        cmp dword [MAP], 0x100000       ; base
        jne .next
        cmp word [MAP + 16], 1          ; type
        je .found
.next:  test ebx, ebx
        jnz .entry
.failed: mov si, fail
        call say
        mov al, 0x11
        out EXIT_PORT, al
.found: call passed                     ; 15h

        mov ah, 1                       ; no key has been pressed
        int 0x16
        jnz .failed
        call passed                     ; 16h

        ; What teletype wrote last stands before the cursor.
        mov ax, 0x0e21
        mov bx, 7
        int 0x10
        mov ah, 3
        mov bh, 0
        int 0x10                        ; DH, DL: row, column
        mov al, 80
        mul dh
        mov dh, 0
        add ax, dx
        add ax, ax
        xchg ax, bx
        mov ax, 0xb800
        mov es, ax
        cmp byte [es:bx - 2], 0x21
        jne .failed
        call passed                     ; 10h

        ; 32-bit protected mode, 4 MiB mapped, and page 0xf0000 shown at 0x200000 as well.
        cli
        o32 lgdt [gdtr]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp 8:protected
bits 32
protected:
        mov ax, 0x10
        mov ds, ax
        mov es, ax
        mov edi, PT
        mov eax, 3
.map:   stosd
        add eax, 0x1000
        cmp edi, PT + 0x1000
        jb .map
        mov dword [PT + 0x200 * 4], 0x7003
        mov dword [PD], PT | 3
        mov eax, PD
        mov cr3, eax
        mov eax, cr0
        bts eax, 31
        mov cr0, eax
        mov al, 0x11
        cmp word [0x200dfe], 0xaa55     ; this sector's last word, by the second mapping
        jne .leave
        mov esi, paged
        mov dx, COM1
.say:   lodsb
        out dx, al
        cmp al, 10
        jne .say
        mov al, 0x10
.leave: out EXIT_PORT, al
.stop:  hlt
        jmp .stop

bits 16
; Print the name of the next service that answered.
passed: mov si, [SERVICES]
        call say
        mov [SERVICES], si
        ret

; Print SI up to its zero, by teletype and over COM1; SI ends up behind it.
say:    lodsb
        test al, al
        jz .done
        mov bx, 7
        mov ah, 0x0e
        int 0x10
        push dx
        mov dx, COM1
        cmp al, 13                      ; COM1 gets line feeds only
        je .skip
        out dx, al
.skip:  pop dx
        jmp say
.done:  ret

        align 8
gdt:    dq 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdtr:   dw 23
        dd gdt
hello:  db "boot_sector:", 13, 10, 0
names:  db "12h", 0, " 13h", 0, " 15h", 0, " 16h", 0, " 10h", 13, 10, 0
paged:  db "32-bit paging", 10
fail:   db " FAIL", 13, 10, 0

        times 510 - ($ - $$) db 0
        dw 0xaa55
