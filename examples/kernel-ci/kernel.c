// SPDX-License-Identifier: GPL-2.0-or-later
// A kernel with a shell on COM1 and a self-test, for its tests' sake.

typedef unsigned char u8;
typedef unsigned int u32;

__attribute__((section(".multiboot"), used)) static const u32 multiboot[] = {
    0x1badb002, 2, -(0x1badb002 + 2)};

unsigned ticks = 3;
static u8 heap[4096], *next = heap;

static void out(int port, u8 value) {
    __asm__ volatile("outb %0, %w1" ::"a"(value), "Nd"(port));
}
static u8 in(int port) {
    u8 value;
    __asm__ volatile("inb %w1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static void print(const char *text) {
    while (*text) out(0x3f8, *text++);
}
static char key(void) {
    while (!(in(0x3fd) & 1)) __asm__ volatile("pause");
    return in(0x3f8);
}
static int equal(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}
static int contains(const char *text, const char *word) {
    for (; *text; text++) {
        int i = 0;
        while (word[i] && text[i] == word[i]) i++;
        if (!word[i]) return 1;
    }
    return 0;
}
static void leave(u8 value) {  // 0x10: all is well
    out(0xf4, value);
    for (;;) __asm__ volatile("hlt");
}
static u8 *allocate(unsigned size) {  // multiples of 16 bytes
    u8 *memory = next;
    if (memory + size > heap + sizeof heap) return 0;
    next += (size + 15) & -16;
    return memory;
}

static int failed;
static void check(int number, int ok, const char *name) {
    char digit[] = {'0' + number, ' ', 0};
    print(ok ? "ok " : "not ok "), print(digit), print(name), print("\n");
    failed |= !ok;
}
static void selftest(void) {
    print("TAP version 14\n1..4\n");
    check(1, allocate(1) != 0, "allocate gives memory");
    check(2, allocate(1) - allocate(1) == -16, "allocations are 16 bytes apart");
    check(3, allocate(5000) == 0, "allocate refuses what is too large");
    check(4, contains("a debug b", "debug"), "words are found in a command line");
    leave(failed ? 0x11 : 0x10);
}

__attribute__((used)) static void kmain(u32 magic, const u32 *info) {
    if (magic != 0x2badb002) print("panic: no multiboot loader\n"), leave(0x11);
    print("kernel-ci is up\n");
    if (contains((const char *)info[4], "selftest")) selftest();
    for (;;) {
        char line[32];
        unsigned length = 0;
        print("> ");
        for (char c; (c = key()) != '\n';)
            if (length < sizeof line - 1) line[length++] = c;
        line[length] = 0;
        if (equal(line, "ticks")) print(ticks ? "ticking\n" : "stopped\n");
        else if (equal(line, "panic")) print("panic: as you wish\n"), leave(0x11);
        else if (equal(line, "off")) leave(0x10);
        else print("unknown: "), print(line), print("\n");
    }
}

u8 stack[8192];
__asm__(".globl _start\n_start: mov $stack + 8192, %esp\n push %ebx\n push %eax\n call kmain\n");
