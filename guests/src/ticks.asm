; SPDX-License-Identifier: GPL-2.0-or-later
; ticks: the clocks of the board measured by each other: PIT interrupts by the 8259 as the measure,
; then TSC, APIC timer, RTC, ACPI PM timer, HPET and the PIT's second channel, each within 5 %.
; Paging is off. Waiting is done by HLT.

%include "inc/kernel32.inc"
%include "inc/smp.inc"
        org ORIGIN
        bits 32
        MULTIBOOT

PIT_HZ          equ 1193182
TICK            equ 11932               ; PIT counts: 100 Hz
PM_HZ           equ 3579545
VECTOR_PIT      equ 0x20
VECTOR_RTC      equ 0x28
VECTOR_APIC     equ 0x30
VECTOR_SPURIOUS equ 0xff
HPET            equ 0xfed00000
PIC1            equ 0x20
PIC2            equ 0xa0
RTC_A           equ 0x0a
RTC_B           equ 0x0b
RTC_C           equ 0x0c
RTC_PERIODIC    equ 0x40                ; in B and C
RTC_UPDATED     equ 0x10

%macro OUTB 2
        mov al, %2
        out %1, al
%endmacro

; NEAR got, wanted, percent, "what". Changes registers.
%macro NEAR 4
        mov eax, %1
        mov ebx, %2
        mov ecx, %3
        call near_enough
        CHECK eax, ebx, %4
%endmacro

start:  KERNEL32
        SAY "ticks: the clocks of the board agree", 10
        GATE VECTOR_PIT, pit_tick
        GATE VECTOR_RTC, rtc_tick
        GATE VECTOR_APIC, apic_tick
        GATE VECTOR_SPURIOUS, spurious
        call set_up_pics
        ENABLE_APIC
        mov dword [APIC_LVT_LINT0], 0x700       ; the 8259's interrupts
        mov dword [APIC_LVT_TIMER], 0x10000     ; masked
        mov dword [APIC_TIMER_DIV], 0xb         ; by 1
        OUTB 0x43, 0x34                         ; channel 0, mode 2
        OUTB 0x40, TICK & 0xff
        OUTB 0x40, TICK >> 8
        sti
        mov ecx, 2
        call wait_ticks
        SAY "PIT by the 8259: 100 interrupts a second", 10

; -- TSC, APIC timer, PM timer, HPET over 10 ticks, twice ------------------------------------------
        call find_pm_timer
        call start_hpet
        call measure
        mov eax, [tsc_ticks]
        mov [tsc_first], eax
        mov eax, [apic_ticks]
        mov [apic_first], eax
        call measure
        NEAR [tsc_ticks], [tsc_first], 5, "TSC over 10 ticks, second time"
        NEAR [apic_ticks], [apic_first], 5, "APIC timer over 10 ticks, second time"
        SAY "TSC and APIC timer: the same twice over 10 ticks", 10
        cmp dword [pm_port], 0
        je .no_pm
        NEAR [pm_ticks], PM_HZ / 10, 5, "PM timer over 10 ticks"
.no_pm: SAY "ACPI PM timer: 3.58 MHz where there is one", 10
        cmp dword [hpet_wanted], 0
        je .no_hpet
        NEAR [hpet_ticks], [hpet_wanted], 5, "HPET over 10 ticks"
.no_hpet:
        SAY "HPET: its own period where there is one", 10

; -- APIC timer interrupts -------------------------------------------------------------------------
        mov dword [apic_count], 0
        mov dword [APIC_LVT_TIMER], 0x20000 | VECTOR_APIC       ; periodic
        mov eax, [apic_first]
        xor edx, edx
        mov ecx, 20                             ; twice a PIT tick
        div ecx
        mov [APIC_TIMER_INIT], eax
        mov ecx, 25
        call wait_ticks
        mov dword [APIC_LVT_TIMER], 0x10000
        NEAR [apic_count], 50, 8, "periodic APIC interrupts over 25 ticks"
        mov dword [apic_count], 0
        mov dword [APIC_LVT_TIMER], VECTOR_APIC ; one-shot
        mov eax, [pit_count]
        mov [pit_start], eax
        mov eax, [apic_first]
        add eax, eax
        mov [APIC_TIMER_INIT], eax              ; 20 ticks
.shot:  hlt
        cmp dword [apic_count], 0
        je .shot
        mov eax, [pit_count]
        sub eax, [pit_start]
        NEAR eax, 20, 10, "ticks until the one-shot APIC timer"
        mov ecx, 25
        call wait_ticks
        CHECK [apic_count], 1, "it came once"
        CHECK [APIC_TIMER_NOW], 0, "and stands at zero"
        SAY "APIC timer: periodic at 200 Hz, and once after 20 ticks", 10

; -- RTC -------------------------------------------------------------------------------------------
        mov dword [rtc_count], 0
        mov ah, RTC_A
        mov al, 0x26                            ; 32768 >> 5 = 1024 Hz
        call write_rtc
        mov ah, RTC_C
        call read_rtc
        mov ah, RTC_B
        mov al, 2 | RTC_PERIODIC                ; 24 hours
        call write_rtc
        mov ecx, 2
        call wait_ticks
        mov dword [rtc_count], 0
        mov ecx, 50
        call wait_ticks
        mov eax, [rtc_count]
        NEAR eax, 512, 5, "RTC interrupts over half a second"
        mov ah, RTC_B
        mov al, 2 | RTC_UPDATED
        call write_rtc
        call wait_update                        ; a second begins
        mov ah, 0
        call read_rtc
        mov [second], al
        mov eax, [pit_count]
        mov [pit_start], eax
        call wait_update
        mov eax, [pit_count]
        sub eax, [pit_start]
        NEAR eax, 100, 3, "ticks in a second of the RTC"
        mov ah, 0
        call read_rtc
        cmp al, [second]
        setne al
        movzx eax, al
        CHECK eax, 1, "the second changed"
        mov ah, RTC_B
        mov al, 2
        call write_rtc
        SAY "RTC: 1024 interrupts a second, and seconds of 100 ticks", 10

; -- PIT channel 2, polled -------------------------------------------------------------------------
        cli
        in al, 0x61
        and al, 0xfc                            ; gate shut, no sound
        out 0x61, al
        OUTB 0x43, 0xb0                         ; channel 2, mode 0
        OUTB 0x42, PIT_HZ / 500 & 0xff          ; 2 ms
        OUTB 0x42, PIT_HZ / 500 >> 8
        in al, 0x61
        or al, 1
        out 0x61, al
        rdtsc
        mov esi, eax
.poll:  in al, 0x61
        test al, 0x20
        jz .poll
        rdtsc
        sub eax, esi
        mov edi, eax
        mov eax, [tsc_first]
        xor edx, edx
        mov ecx, 50
        div ecx
        mov ebp, eax
        NEAR edi, ebp, 10, "TSC over 2 ms of PIT channel 2"
        SAY "PIT channel 2 by port 0x61", 10
        PASSED "ticks"

; ECX ticks from the next one on.
wait_ticks:
        inc ecx
        add ecx, [pit_count]
.wait:  hlt
        cmp [pit_count], ecx
        jne .wait
        ret

wait_update:
        mov dword [update_count], 0
.wait:  hlt
        cmp dword [update_count], 0
        je .wait
        ret

; How far TSC, APIC timer, PM timer and HPET go in 10 ticks.
measure:
        mov dword [APIC_LVT_TIMER], 0x10000
        mov dword [APIC_TIMER_INIT], 0xffffffff
        mov ecx, 0
        call wait_ticks
        call sample
        mov eax, [apic_now]
        mov [apic_ticks], eax
        mov eax, [tsc_now]
        neg eax
        mov [tsc_ticks], eax
        mov eax, [pm_now]
        neg eax
        mov [pm_ticks], eax
        mov eax, [hpet_now]
        neg eax
        mov [hpet_ticks], eax
        mov ecx, 9
        call wait_ticks
        call sample
        mov eax, [apic_now]
        sub [apic_ticks], eax                   ; it counts down
        mov eax, [tsc_now]
        add [tsc_ticks], eax
        mov eax, [pm_now]
        add [pm_ticks], eax
        and dword [pm_ticks], 0xffffff
        mov eax, [hpet_now]
        add [hpet_ticks], eax
        mov dword [APIC_TIMER_INIT], 0
        ret

sample: mov eax, [APIC_TIMER_NOW]
        mov [apic_now], eax
        rdtsc
        mov [tsc_now], eax
        mov edx, [pm_port]
        test edx, edx
        jz .no_pm
        in eax, dx
        mov [pm_now], eax
.no_pm: cmp dword [hpet_wanted], 0
        je .no_hpet
        mov eax, [HPET + 0xf0]
        mov [hpet_now], eax
.no_hpet:
        ret

; EAX = EBX if EAX is within ECX percent of EBX.
near_enough:
        push eax
        sub eax, ebx
        jae .above
        neg eax
.above: mov edx, 100
        mul edx
        mov esi, eax
        mov edi, edx
        mov eax, ebx
        mul ecx
        cmp edi, edx
        jb .near
        ja .far
        cmp esi, eax
        ja .far
.near:  pop eax
        mov eax, ebx
        ret
.far:   pop eax
        ret

; PM timer's port from the FADT; 0 where there is no ACPI.
find_pm_timer:
        mov esi, 0xe0000
.rsdp:  cmp dword [esi], 'RSD '
        jne .next
        cmp dword [esi + 4], 'PTR '
        je .found
.next:  add esi, 16
        cmp esi, 0x100000
        jb .rsdp
        ret
.found: mov esi, [esi + 16]                     ; RSDT
        mov ecx, [esi + 4]
        sub ecx, 36
        shr ecx, 2
        jz .none
.table: mov edi, [esi + 36]
        cmp dword [edi], 'FACP'
        je .fadt
        add esi, 4
        dec ecx
        jnz .table
.none:  ret
.fadt:  mov eax, [edi + 76]
        mov [pm_port], eax
        ret

; Start the HPET's main counter; what it should do in 10 ticks, or 0 where there is none.
start_hpet:
        mov ecx, [HPET + 4]                     ; period in femtoseconds
        cmp ecx, 100000000
        ja .none
        cmp ecx, 100000
        jb .none
        or dword [HPET + 0x10], 1
        mov eax, 100000000000000 & 0xffffffff   ; 100 ms
        mov edx, 100000000000000 >> 32
        div ecx
        mov [hpet_wanted], eax
.none:  ret

set_up_pics:
        OUTB PIC1, 0x11
        OUTB PIC2, 0x11
        OUTB PIC1 + 1, VECTOR_PIT
        OUTB PIC2 + 1, VECTOR_RTC
        OUTB PIC1 + 1, 4
        OUTB PIC2 + 1, 2
        OUTB PIC1 + 1, 1
        OUTB PIC2 + 1, 1
        OUTB PIC1 + 1, 0xfa                     ; IRQ 0 and the second 8259
        OUTB PIC2 + 1, 0xfe                     ; IRQ 8
        ret

; RTC register AH: to or from AL.
write_rtc:
        xchg al, ah
        out 0x70, al
        mov al, ah
        out 0x71, al
        ret
read_rtc:
        mov al, ah
        out 0x70, al
        in al, 0x71
        ret

pit_tick:
        push eax
        inc dword [pit_count]
        OUTB PIC1, 0x20
        pop eax
        iretd

rtc_tick:
        push eax
        mov ah, RTC_C
        call read_rtc
        test al, RTC_PERIODIC
        jz .no_period
        inc dword [rtc_count]
.no_period:
        test al, RTC_UPDATED
        jz .no_update
        inc dword [update_count]
.no_update:
        OUTB PIC2, 0x20
        OUTB PIC1, 0x20
        pop eax
        iretd

apic_tick:
        inc dword [apic_count]
        mov dword [APIC_EOI], 0
spurious:
        iretd

        KERNEL32_CODE

section .data
        align 4
pit_count:    dd 0
pit_start:    dd 0
rtc_count:    dd 0
update_count: dd 0
apic_count:   dd 0
tsc_now:      dd 0
tsc_ticks:    dd 0
tsc_first:    dd 0
apic_now:     dd 0
apic_ticks:   dd 0
apic_first:   dd 0
pm_port:      dd 0
pm_now:       dd 0
pm_ticks:     dd 0
hpet_now:     dd 0
hpet_ticks:   dd 0
hpet_wanted:  dd 0
second:       dd 0
