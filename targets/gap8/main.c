/* Test firmware on GAP8's fabric controller: output by the console, core cycles by the performance counter. */
#include <stdint.h>
#include <stdio.h>

#include "pmsis.h"

#include "board.h"

int clio_test(void);

void board_init(void) {
    pi_perf_conf(1u << PI_PERF_CYCLES);
    pi_perf_reset();
    pi_perf_start();
}

void board_puts(const char *text) {
    printf("%s", text);
}

uint32_t board_counter(void) {
    return pi_perf_read(PI_PERF_CYCLES);
}

const char *board_counter_unit(void) {
    return "cycles";
}

uint32_t board_instructions(uint32_t from, uint32_t to) {
    return to - from;
}

void board_exit(int code) {
    pmsis_exit(code);
}

void board_fault(const char *reason) {
    printf("FAULT %s\n", reason);
    board_exit(1);
}

/* The stack belongs to the SDK's main thread. */
void board_stack_paint(void) {
}

uint32_t board_stack_used(void) {
    return 0;
}

static void run(void) {
    board_init();
    board_exit(clio_test());
}

int main(void) {
    return pmsis_kickoff((void *)run);
}
