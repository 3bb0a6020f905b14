/* QEMU's RISC-V `virt` machine: instructions from minstret, exact with `-icount shift=0`. */
#ifndef CLIO_BOARD_CONFIG_H
#define CLIO_BOARD_CONFIG_H

#include <stdint.h>

#define COUNTER_UNIT "instructions"

static inline void counter_start(void) {
}

/* csrr needs Zicsr, which rv32imc of this compiler does not contain; with it in -march no multilib would fit. */
static inline uint32_t counter_read(void) {
    uint32_t count;
    __asm__ volatile(".option push\n\t.option arch, +zicsr\n\tcsrr %0, minstret\n\t.option pop" : "=r"(count));
    return count;
}

static inline uint32_t counter_instructions(uint32_t from, uint32_t to) {
    return to - from;
}

/* QEMU's semihosting is always there. */
static inline int board_has_debugger(void) {
    return 1;
}

#endif
