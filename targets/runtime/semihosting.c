/* Output and exit code by semihosting, on Arm and RISC-V; the counter is the board's (board_config.h). */
#include "board.h"

#include "board_config.h"

#define SYS_WRITE0 0x04u
#define SYS_EXIT 0x18u
#define STOPPED_RUN_TIME_ERROR 0x20023u
#define STOPPED_APPLICATION_EXIT 0x20026u

/* A semihosting call stops the core: few long strings instead of many short ones. */
static char pending[1024];
static uint32_t pending_count;

static void semihost(uint32_t operation, const void *argument) {
    /* Asked first: a call between the register variables and their use would overwrite them without optimization. */
    if (board_has_debugger()) {
#if defined(__riscv)
        register uint32_t a0 __asm__("a0") = operation;
        register const void *a1 __asm__("a1") = argument;
        /* The two shifts mark the ebreak; all three are uncompressed and on one page. Aligned before compressed
         * instructions are switched off: the linker needs a two-byte nop where the code in front has an odd number of them. */
        __asm__ volatile(".balign 16\n\t.option push\n\t.option norvc\n\tslli x0, x0, 0x1f\n\tebreak\n\tsrai x0, x0, 7\n\t"
                         ".option pop"
                         : "+r"(a0)
                         : "r"(a1)
                         : "memory");
#else
        register uint32_t r0 __asm__("r0") = operation;
        register const void *r1 __asm__("r1") = argument;
        __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
#endif
    }
}

static void flush(void) {
    pending[pending_count] = '\0';
    if (pending_count != 0u) {
        semihost(SYS_WRITE0, pending);
    }
    pending_count = 0;
}

void board_init(void) {
    counter_start();
}

void board_puts(const char *text) {
    while (*text != '\0') {
        if (pending_count == sizeof pending - 1u) {
            flush();
        }
        pending[pending_count++] = *text++;
    }
}

uint32_t board_counter(void) {
    return counter_read();
}

const char *board_counter_unit(void) {
    return COUNTER_UNIT;
}

uint32_t board_instructions(uint32_t from, uint32_t to) {
    return counter_instructions(from, to);
}

void board_exit(int code) {
    flush();
    semihost(SYS_EXIT, (const void *)(uintptr_t)(code == 0 ? STOPPED_APPLICATION_EXIT : STOPPED_RUN_TIME_ERROR));
    for (;;) {
        __asm__ volatile("wfi");
    }
}

void board_fault(const char *reason) {
    board_puts("FAULT ");
    board_puts(reason);
    board_puts("\n");
    board_exit(1);
}
