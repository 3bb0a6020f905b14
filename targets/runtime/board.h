/* What the test firmware asks of a board. Every board below boards/ implements these nine functions. */
#ifndef CLIO_BOARD_H
#define CLIO_BOARD_H

#include <stdint.h>

/* Output and counter ready. Called first, once. */
void board_init(void);

/* Writes text; may buffer until board_exit. */
void board_puts(const char *text);

/* Raw value of the board's free-running counter: instructions, ticks or cycles, up or down. */
uint32_t board_counter(void);

/* Instructions between two values of board_counter; core cycles on real boards, which cannot count instructions;
 * 0 where there is no counter. */
uint32_t board_instructions(uint32_t from, uint32_t to);

/* What board_instructions returns: "instructions", "cycles", or "nothing" without a counter. */
const char *board_counter_unit(void);

/* Flushes the output and ends with this exit code; bare metal does not return. */
void board_exit(int code);

/* Prints "FAULT <reason>" and ends with exit code 1. */
void board_fault(const char *reason);

/* Fills the unused part of the stack with a pattern. */
void board_stack_paint(void);

/* Bytes of stack that the caller's calls have used since it called board_stack_paint; 0 where it cannot be known. A stack
 * that was used up is a fault. */
uint32_t board_stack_used(void);

#endif
