/* Stack painting for bare-metal boards. sections.ld reserves the stack from _stack_limit (lowest) to _stack_top. */
#include "board.h"

#define PATTERN 0xc5c5c5c5u

extern uint32_t _stack_limit[];

/* The pointers are volatile lest the compiler turn a loop into a call of memset, which has a stack frame of its own. */

static volatile uint32_t *painted_to;

/* Calls nothing, so that the stack pointer is the caller's. */
void board_stack_paint(void) {
    volatile uint32_t *end;
    volatile uint32_t *at;
#if defined(__riscv)
    __asm__ volatile("mv %0, sp" : "=r"(end));
#else
    __asm__ volatile("mov %0, sp" : "=r"(end));
#endif
    for (at = _stack_limit; at < end; at++) {
        *at = PATTERN;
    }
    painted_to = end;
}

uint32_t board_stack_used(void) {
    volatile uint32_t *at = _stack_limit;
    if (*at != PATTERN) {
        board_fault("stack overflow");
    }
    while (at < painted_to && *at == PATTERN) {
        at++;
    }
    return (uint32_t)((uintptr_t)painted_to - (uintptr_t)at);
}
