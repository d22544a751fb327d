# SPDX-License-Identifier: GPL-2.0-or-later
"""Small guest programs, assembled: `CODE[name]` is bytes to be put at 0x1000.

`SOURCES` has what they say, for people and for a test that assembles them again.
"""

from __future__ import annotations

ORIGIN = 0x1000

# name: (bits, assembly, machine code)
SOURCES: dict[str, tuple[int, str, str]] = {
    "out bytes": (
        16,
        "mov al,0x41; mov dx,0x500; out dx,al; inc al; out dx,al; hlt",
        "b041ba0005eefec0eef4",
    ),
    "out dword": (
        32,
        "mov eax,0x12345678; mov edx,0x500; out dx,eax; in eax,dx; hlt",
        "b878563412ba00050000efedf4",
    ),
    "count to 20": (32, "mov ecx,20; again: dec ecx; jnz again; hlt", "b9140000004975fdf4"),
    "spin": (32, "again: jmp again", "ebfe"),
    "sti shadow": (32, "cli; nop; sti; nop; nop; hlt", "fa90fb9090f4"),
    "mov ss shadow": (32, "mov eax,ss; sti; mov ss,ax; nop; nop; hlt", "8cd0fb668ed09090f4"),
    "popf opens": (32, "push 0x202; popfd; nop; nop; hlt", "68020200009d9090f4"),
    "sti hlt": (32, "sti; hlt; nop; hlt", "fbf490f4"),
    "store to device in mid-block": (
        32,
        "sti; nop; nop; mov dword ptr [0x400000],eax; nop; nop; hlt",
        "fb9090a3000040009090f4",
    ),
    "increment device": (
        32,
        "sti; nop; nop; inc dword ptr [0x400000]; nop; nop; hlt",
        "fb9090ff05000040009090f4",
    ),
    "iret": (32, "iretd", "cf"),
    "nmi twice": (32, "nop; nop; nop; hlt", "909090f4"),
    "read dword": (32, "mov eax,dword ptr [esi]; hlt", "8b06f4"),
    "write dword": (32, "mov dword ptr [esi],eax; hlt", "8906f4"),
    "read-modify-write": (32, "add dword ptr [esi],1; hlt", "830601f4"),
    "push": (32, "mov esp,esi; push eax; hlt", "89f450f4"),
    "pop": (32, "mov esp,esi; pop eax; hlt", "89f458f4"),
    "call": (32, "mov esp,esi; call 0x1100", "89f4e8f9000000"),
    "movs source": (
        32,
        "mov edi,0x7000; movsd dword ptr es:[edi], dword ptr [esi]; hlt",
        "bf00700000a5f4",
    ),
    "movs target": (
        32,
        "mov edi,esi; mov esi,0x7000; movsd dword ptr es:[edi], dword ptr [esi]; hlt",
        "89f7be00700000a5f4",
    ),
    "sse": (32, "movups xmm0,[esi]; hlt", "0f1006f4"),
    "cmpxchg8b": (32, "lock; cmpxchg8b [esi]; hlt", "f00fc70ef4"),
    "fld": (32, "fld xword ptr [esi]; hlt", "db2ef4"),
    "far load": (32, "les eax,[esi]; hlt", "c406f4"),
    "jump": (32, "jmp esi", "ffe6"),
    "ud2": (32, "nop; ud2", "900f0b"),
    "icebp": (32, "nop; .byte 0xf1", "90f1"),
    "int3": (32, "nop; int3", "90cc"),
    "int 3": (32, "nop; .byte 0xcd,3", "90cd03"),
    "into": (32, "mov al,0x7f; add al,1; into", "b07f0401ce"),
    "div": (32, "xor ecx,ecx; div ecx", "31c9f7f1"),
    "single step": (32, "push 0x102; popfd; nop; nop; hlt", "68020100009d9090f4"),
    "rdtsc": (32, "rdtsc; mov ebx,eax; rdtsc; sub eax,ebx; hlt", "0f3189c30f3129d8f4"),
    "cpuid": (32, "cpuid; hlt", "0fa2f4"),
    "rdmsr": (32, "rdmsr; hlt", "0f32f4"),
    "wrmsr": (32, "wrmsr; hlt", "0f30f4"),
    "mov cr0": (32, "mov cr0,eax; nop; hlt", "0f22c090f4"),
    "mov cr3": (32, "mov cr3,eax; nop; hlt", "0f22d890f4"),
    "mov cr4": (32, "mov cr4,eax; nop; hlt", "0f22e090f4"),
    "clts": (32, "clts; hlt", "0f06f4"),
    "lmsw": (32, "lmsw ax; hlt", "0f01f0f4"),
    "invlpg": (
        32,
        "mov eax,[0x5000]; mov esi,0x5004; invlpg [esi]; mov eax,[0x5000]; hlt",
        "a100500000be045000000f013ea100500000f4",
    ),
    "invlpg far": (32, "invlpg fs:[esi*4+0x10]; hlt", "640f013cb510000000f4"),
    "cpl 3": (32, "in al,dx; nop; hlt", "ec90f4"),
    "outs": (
        32,
        "mov esi,0x7000; mov edx,0x500; mov ecx,3; cld; rep; outsb; hlt",
        "be00700000ba00050000b903000000fcf36ef4",
    ),
    "mov ds": (32, "mov ds,ax; nop; int 0x40", "668ed890cd40"),
    "pushf": (16, "pushf; pop ax; hlt", "9c58f4"),
    "pause": (32, "pause; hlt", "f390f4"),
    "syscall": (64, "syscall; hlt", "0f05f4"),
    "sysenter": (32, "sysenter; hlt", "0f34f4"),
    "wide syscall": (64, ".byte 0x48; syscall; hlt", "480f05f4"),
    "load far": (64, "mov rax,[rsi]; hlt", "488b06f4"),
    "push far": (64, "mov rsp,rsi; push rax; hlt", "4889f450f4"),
    "load by rbp": (64, "mov rbp,rsi; mov rax,[rbp]; hlt", "4889f5488b4500f4"),
    "iretq to cpl 3": (
        64,
        "wrmsr; push 0x23; push 0x8000; push 0x202; push 0x43; push 0x1100; iretq",
        "0f306a2368008000006802020000" + "6a43680011000048cf",
    ),
    "mov cr8": (
        64,
        "mov rax,5; mov cr8,rax; xor eax,eax; mov rax,cr8; hlt",
        "48c7c005000000440f22c031c0440f20c0f4",
    ),
    "user loop": (32, "again: inc eax; jmp again", "40ebfd"),
}

CODE = {name: bytes.fromhex(code) for name, (_, _, code) in SOURCES.items()}
