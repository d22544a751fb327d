; SPDX-License-Identifier: GPL-2.0-or-later
; pse: large pages split, merged, moved and protected (MMU cases 2, 3, 4, 25, 27): 4 MiB in 32-bit
; paging, 2 MiB under PAE and in long mode, 1 GiB and PSE-36 where CPUID has them.

%include "inc/kernel32.inc"
%include "inc/long.inc"
%include "inc/large_page.inc"
        org ORIGIN
        bits 32
        MULTIBOOT

PD      equ 0x200000                    ; 32-bit
K32     equ 0x201000
PDPT    equ 0x202000                    ; PAE
PD64    equ 0x203000                    ; PAE and long mode
K64     equ 0x204000                    ; two tables
LPDPT   equ 0x206000
PML4    equ 0x207000
TABLE   equ 0x208000                    ; of the split page
PDV     equ 0x209000                    ; directory of 0x40000000, PAE and long mode
TABLES_END equ 0x20a000
%define FIRST 0x400000                    ; two large pages' worth of marked memory
%define SECOND 0x800000
%define THIRD 0xc00000
%define VA0 0x40000000
%define VA1 0x80000000

start:  KERNEL32
        call make_idt64
        SAY "pse: large pages split, merged, moved and protected", 10
        CLEAR PD, TABLES_END - PD
        call mark_all
        FILL32 K32, RW, 1024, 0x1000
        FILL64 K64, RW, 1024, 0x1000
        mov dword [PD], K32 | RW

; -- 4 MiB -----------------------------------------------------------------------------------------
%define E0 (PD + (VA0 >> 22) * 4)
%define E1 (PD + (VA1 >> 22) * 4)
%define BASE FIRST
%define OTHER SECOND
%define P0 0
%define P1 0x123000
%define P2 0x3ff000
%define UNIT 0x1000
%define CHILD RW
%define NEWCHILD (SECOND + 0x5000)
%define CHILDREN 1024
%define WIDTH 4
%define SPLIT TABLE
%define RESERVED (1 << 21)
        SET_CR4 CR4_PSE
        PAGING_ON PD
        LARGE_PAGE
        SAY "4 MiB pages: ok", 10

; -- CR4.PSE decides what an entry means -----------------------------------------------------------
        ; The frame of marks at THIRD holds a table as well.
        mov dword [E1], THIRD | PTE_PS | RW
        mov dword [VA1 + 4], SECOND | RW
        CHECK [VA1], MARK(THIRD >> 12), "PSE set: a large page"
        CHECK [VA1 + 0x1000], MARK((THIRD >> 12) + 1), "PSE set: its second frame"
        mov ebx, 3
.toggle:
        CLEAR_CR4 CR4_PSE
        CHECK [VA1 + 0x1000], MARK(SECOND >> 12), "PSE clear: a table"
        FAULTS XPF, 0, VA1 + 0x2000, "PSE clear: entry 2 is not present", mov eax, [VA1 + 0x2000]
        SET_CR4 CR4_PSE
        CHECK [VA1 + 0x1000], MARK((THIRD >> 12) + 1), "PSE set again"
        CHECK [VA1 + 4], SECOND | RWA, "the table's entry as data"
        and dword [VA1 + 4], ~PTE_A
        dec ebx
        jnz .toggle
        mov dword [E1], 0
        invlpg [VA1]
        SAY "CR4.PSE makes one entry a large page or a table: ok", 10

; -- PSE-36 ----------------------------------------------------------------------------------------
        mov eax, 1
        cpuid
        bt edx, 17
        jnc .no_pse36
        ; Bit 13 of the entry is bit 32 of the address: not the memory at FIRST.
        mov dword [E0], FIRST | PTE_PS | RW
        mov dword [E1], FIRST | PTE_PS | RW | 1 << 13
        mov eax, [VA1]
        sub eax, MARK(FIRST >> 12)
        neg eax
        sbb eax, eax
        CHECK eax, 0xffffffff, "the value above 4 GiB is another one"
        mov dword [VA1], 0x55
        CHECK [VA0], MARK(FIRST >> 12), "a write above 4 GiB is not one below"
        CHECK [E1], FIRST | PTE_PS | RWAD | 1 << 13, "its entry"
        mov dword [E1], FIRST | PTE_PS | RW
        invlpg [VA1 + 0x7000]
        CHECK [VA1], MARK(FIRST >> 12), "the bit cleared: memory below 4 GiB"
        jmp .pse36_done
.no_pse36:
        mov dword [E1], FIRST | PTE_PS | RW | 1 << 13
        RESERVED_FAULT VA1, "no PSE-36: the bit is reserved"
.pse36_done:
        mov dword [E0], 0
        mov dword [E1], 0
        PAGING_OFF
        CLEAR_CR4 CR4_PSE
        SAY "PSE-36: as CPUID says", 10

; -- 2 MiB under PAE, CR4.PSE clear ----------------------------------------------------------------
        UNDEFINE_LARGE_PAGE
%define VA0 0x40000000
%define VA1 0x40200000
%define E0 PDV
%define E1 (PDV + 8)
%define BASE FIRST
%define OTHER SECOND
%define P0 0
%define P1 0x123000
%define P2 0x1ff000
%define UNIT 0x1000
%define CHILD RW
%define NEWCHILD (SECOND + 0x5000)
%define CHILDREN 512
%define WIDTH 8
%define SPLIT TABLE
%define RESERVED (1 << 13)
        jmp set_up_pae
large_2mib:
        LARGE_PAGE
        ret
set_up_pae:
        ENTRY64 PDPT, PD64 | PTE_P
        ENTRY64 PDPT + 8, PDV | PTE_P
        ENTRY64 PD64, K64 | RW
        ENTRY64 PD64 + 8, (K64 + 0x1000) | RW
        CLEAR TABLE, 0x1000
        call mark_all
        SET_CR4 CR4_PAE
        PAGING_ON PDPT
        call large_2mib
        SAY "2 MiB pages under PAE: ok", 10

        ; No execution from a large page.
        mov ecx, MSR_EFER
        rdmsr
        or eax, EFER_NXE
        wrmsr
        mov dword [E0], BASE | PTE_PS | RW
        mov esi, VA0 + 0x100
        mov dword [esi], 0xc3
        call esi
        mov dword [E0 + 4], 0x80000000
        invlpg [esi]                            ; QEMU 7.2 needs the very address for code
        TRY .fetched
        call esi
.fetched:
        mov dword [fault_resume], 0
        CHECK [fault_vector], XPF, "code from a large page without execution"
        CHECK [fault_error], PF_P | PF_I, "its error code"
        CHECK [fault_address], esi, "its address"
        CHECK [VA0 + P2], MARK((BASE + P2) >> 12), "it may be read"
        mov dword [E0 + 4], 0
        mov dword [E0], 0
        PAGING_OFF
        SAY "2 MiB pages without execution: ok", 10

; -- long mode, 2 MiB and 1 GiB, from compatibility code -------------------------------------------
        ENTRY64 PML4, LPDPT | RW
        ENTRY64 LPDPT, PD64 | RW
        ENTRY64 LPDPT + 8, PDV | RW
        CLEAR TABLE, 0x1000
        call mark_all
        ENTER_LONG PML4, long_mode
bits 64
long_mode:
        push SEL_CODE32
        push compatibility
        retfq
bits 32
compatibility:
        mov eax, SEL_DATA
        mov ss, ax
        call large_2mib
        SAY "2 MiB pages in long mode: ok", 10

        UNDEFINE_LARGE_PAGE
%define VA0 0x80000000
%define VA1 0xc0000000
%define E0 (LPDPT + 2 * 8)
%define E1 (LPDPT + 3 * 8)
%define BASE 0
%define OTHER -1
%define P0 0x400000
%define P1 0x634000
%define P2 0x9ff000
%define UNIT 0x200000
%define CHILD (RW | PTE_PS)
%define NEWCHILD 0xa00000
%define CHILDREN 512
%define WIDTH 8
%define SPLIT TABLE
%define RESERVED (1 << 13)
        CLEAR TABLE, 0x1000
        mov eax, 0x80000001
        cpuid
        bt edx, 26
        jnc .no_1gib
        ; The marks again, through a large page: the tables below map the first 4 MiB only.
        mov dword [E0], PTE_PS | RW
        mov edi, VA0 + FIRST
        call mark_from_edi
        LARGE_PAGE
        jmp .done
.no_1gib:
        mov dword [E0], PTE_PS | RW
        RESERVED_FAULT VA0, "no 1 GiB pages: the bit is reserved"
.done:  SAY "1 GiB pages: as CPUID says", 10
        PASSED "pse"


; Every frame from FIRST to 16 MiB holds MARK(its number), paging off.
mark_all:
        mov edi, FIRST
mark_from_edi:
        mov eax, MARK(FIRST >> 12)
        mov ecx, (0x1000000 - FIRST) >> 12
.next:  mov [edi], eax
        mov [edi + 0xffc], eax
        add edi, 0x1000
        inc eax
        dec ecx
        jnz .next
        ret

        KERNEL32_CODE
        LONG_CODE
