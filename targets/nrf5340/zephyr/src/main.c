/* Test firmware under Zephyr: output by printk, core cycles by the DWT (the kernel's own clock has 32768 Hz). */
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>

#include "board.h"

#include "../../nrf5340/counter_dwt.h"

int clio_test(void);

void board_init(void) {
    counter_start();
}

void board_puts(const char *text) {
    printk("%s", text);
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
    printk("exit %d\n", code);
    k_sleep(K_FOREVER);
}

void board_fault(const char *reason) {
    printk("FAULT %s\n", reason);
    k_panic();
}

/* CONFIG_THREAD_ANALYZER tells what a thread's stack came to. */
void board_stack_paint(void) {
}

uint32_t board_stack_used(void) {
    return 0;
}

int main(void) {
    board_init();
    board_exit(clio_test());
    return 0;
}
