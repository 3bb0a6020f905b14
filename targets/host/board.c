/* The host as a board: stdio for output, no instruction counter, a stack that nobody paints. */
#include "board.h"

#include <stdio.h>
#include <stdlib.h>

void board_init(void) {
}

void board_puts(const char *text) {
    fputs(text, stdout);
}

uint32_t board_counter(void) {
    return 0;
}

const char *board_counter_unit(void) {
    return "nothing";
}

uint32_t board_instructions(uint32_t from, uint32_t to) {
    (void)from;
    (void)to;
    return 0;
}

void board_exit(int code) {
    exit(fflush(stdout) == 0 ? code : 2);
}

void board_fault(const char *reason) {
    printf("FAULT %s\n", reason);
    board_exit(1);
}

void board_stack_paint(void) {
}

uint32_t board_stack_used(void) {
    return 0;
}
