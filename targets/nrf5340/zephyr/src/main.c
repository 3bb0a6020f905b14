/* Test firmware under Zephyr: output by printk, time in hardware cycles of the kernel's clock. */
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>

#include "board.h"

int clio_test(void);

void board_init(void) {
}

void board_puts(const char *text) {
    printk("%s", text);
}

uint32_t board_counter(void) {
    return k_cycle_get_32();
}

uint32_t board_instructions(uint32_t from, uint32_t to) {
    return to - from;
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
