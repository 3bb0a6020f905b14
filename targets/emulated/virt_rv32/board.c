/* QEMU's RISC-V `virt` machine: output by its UART, end by its test device, instructions by rdinstret (-icount shift=0). */
#include "board.h"

#define UART (*(volatile uint8_t *)0x10000000u)
#define TEST_DEVICE (*(volatile uint32_t *)0x100000u)
#define TEST_PASS 0x5555u
#define TEST_FAIL 0x3333u

void board_trap(uint32_t cause);

void board_init(void) {
}

void board_puts(const char *text) {
    while (*text != '\0') {
        UART = (uint8_t)*text++;
    }
}

/* csrr needs Zicsr, which rv32imc of this compiler does not contain; with it in -march no multilib would fit. */
uint32_t board_counter(void) {
    uint32_t count;
    __asm__ volatile(".option push\n\t.option arch, +zicsr\n\tcsrr %0, minstret\n\t.option pop" : "=r"(count));
    return count;
}

uint32_t board_instructions(uint32_t from, uint32_t to) {
    return to - from;
}

void board_exit(int code) {
    TEST_DEVICE = code == 0 ? TEST_PASS : ((uint32_t)code << 16 | TEST_FAIL);
    for (;;) {
    }
}

void board_fault(const char *reason) {
    board_puts("FAULT ");
    board_puts(reason);
    board_puts("\n");
    board_exit(1);
}

void board_trap(uint32_t cause) {
    static char reason[] = "trap 00";
    reason[5] = (char)('0' + cause / 10u % 10u);
    reason[6] = (char)('0' + cause % 10u);
    board_fault(reason);
}
