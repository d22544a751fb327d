; SPDX-License-Identifier: GPL-2.0-or-later
; spinlock: all processors and one counter: an XCHG lock with and without PAUSE, a BTS lock, a
; ticket lock, and counters that need no lock; a lock in a page that is a live page table as well.
; No increment may be lost.

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
OTHERS_CR4 equ CR4_PSE
VIEW    equ 0x40000000
EACH    equ 200                         ; increments by each processor
TICKETS equ 50

; COUNT routine, "what": all processors run it, then the counter must be EACH for each.
%macro COUNT 2-3 EACH
        mov dword [counter], 0
        mov dword [counter + 4], 0
        BEGIN_ORDER %1
        xor ebp, ebp
        call %1
        FINISH_ORDER
        mov eax, [cpus]
        imul eax, eax, %3
        CHECK [counter], eax, %2
        SAY %2, ": every increment counted", 10
%endmacro

; The loop of each routine.
%macro TIMES_EACH 0-1 EACH
        mov ecx, %1
.again:
%endmacro
%macro DONE_EACH 0
        dec ecx
        jnz .again
        ret
%endmacro

; The plain increment that a lock has to protect.
%macro INCREMENT 0
        mov eax, [counter]
        inc eax
        mov [counter], eax
%endmacro

start:  KERNEL32
        SAY "spinlock: all processors, one counter", 10
        CLEAR DIRECTORY, TABLES_END - DIRECTORY
        FILL32 K32, RW, 1024, 0x1000
        mov dword [DIRECTORY], K32 | RW
        mov dword [DIRECTORY + (VIEW >> 22) * 4], PT | RW
        mov dword [DIRECTORY + (APIC >> 22) * 4], APIC_PDE
        mov eax, mapped_page
        or eax, RW
        mov [PT], eax
        GATE VECTOR_WAKE, wake
        SET_CR4 OTHERS_CR4
        PAGING_ON DIRECTORY
        ENABLE_APIC
        START_OTHERS
        COUNT by_xchg_pause, "XCHG lock with PAUSE"
        COUNT by_xchg, "XCHG lock without PAUSE"
        COUNT by_bts, "BTS lock"
        COUNT by_ticket, "ticket lock", TICKETS
        COUNT by_inc, "LOCK INC"
        COUNT by_xadd, "LOCK XADD"
        COUNT by_cmpxchg, "CMPXCHG loop"
        COUNT by_cmpxchg8b, "CMPXCHG8B loop"
        CHECK [counter + 4], 0, "its high half"
        COUNT by_unaligned, "LOCK XADD over a cache line's end"
        mov eax, [cpus]
        imul eax, eax, EACH
        CHECK [line_end - 2], eax, "the counter over the line's end"
        mov dword [mapped_page], 0x1234
        COUNT by_table_lock, "lock and counter in a live page table"
        mov eax, [cpus]
        imul eax, eax, EACH * 2
        CHECK [PT + 513 * 4], eax, "the counter in the table"
        CHECK [VIEW], 0x1234, "the page that the table maps"
        PASSED_SMP "spinlock"

by_xchg_pause:
        TIMES_EACH
        mov eax, 1
        jmp .try
.wait:  pause
        cmp dword [the_lock], 0
        jne .wait
.try:   xchg [the_lock], eax
        test eax, eax
        jnz .wait
        INCREMENT
        mov dword [the_lock], 0
        DONE_EACH

by_xchg:
        TIMES_EACH
.try:   mov eax, 1
        xchg [the_lock], eax
        test eax, eax
        jnz .try
        INCREMENT
        mov dword [the_lock], 0
        DONE_EACH

by_bts: TIMES_EACH
.try:   lock bts dword [the_lock], 31
        jnc .taken
        pause
        jmp .try
.taken: INCREMENT
        lock btr dword [the_lock], 31
        DONE_EACH

by_ticket:
        TIMES_EACH TICKETS
        mov eax, 1
        lock xadd [next_ticket], eax
.wait:  cmp [now_serving], eax
        je .mine
        pause
        jmp .wait
.mine:  INCREMENT
        inc dword [now_serving]
        DONE_EACH

by_inc: TIMES_EACH
        lock inc dword [counter]
        DONE_EACH

by_xadd:
        TIMES_EACH
        mov eax, 1
        lock xadd [counter], eax
        DONE_EACH

by_cmpxchg:
        TIMES_EACH
.try:   mov eax, [counter]
        lea edx, [eax + 1]
        lock cmpxchg [counter], edx
        jne .try
        DONE_EACH

by_cmpxchg8b:
        TIMES_EACH
        push ecx
        mov eax, [counter]
        mov edx, [counter + 4]
.try:   mov ebx, eax
        mov ecx, edx
        add ebx, 1
        adc ecx, 0
        lock cmpxchg8b [counter]
        jne .try
        pop ecx
        DONE_EACH

; A second counter lies across the end of a cache line.
by_unaligned:
        TIMES_EACH
        mov eax, 1
        lock xadd [line_end - 2], eax
        lock inc dword [counter]
        DONE_EACH

; Doubleword 512 of the table is the lock and 513 the counter: not present, and never used.
by_table_lock:
        TIMES_EACH
.try:   lock bts dword [PT + 512 * 4], 1
        jnc .taken
        pause
        jmp .try
.taken: add dword [PT + 513 * 4], 2
        mov eax, [VIEW]
        mov dword [PT + 512 * 4], 0
        lock inc dword [counter]
        DONE_EACH

        KERNEL32_CODE
        SMP_CODE
        OTHERS_CODE

section .data
        align 64
        times 64 db 0
line_end: dq 0
        align 64
the_lock:    dd 0
next_ticket: dd 0
now_serving: dd 0
        align 8
counter:     dq 0

section .bss
        alignb 0x1000
mapped_page:
        resb 0x1000
