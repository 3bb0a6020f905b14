/* Start-up of a Cortex-M7 or Cortex-M33: vector table, memory, main. No interrupt is enabled, so the table ends with the
 * system exceptions; an application that enables some brings its own table. */
#include <stdint.h>
#include <string.h>

#include "board.h"

#define SCB_VTOR (*(volatile uint32_t *)0xE000ED08u)
#define SCB_CCR (*(volatile uint32_t *)0xE000ED14u)
#define SCB_CPACR (*(volatile uint32_t *)0xE000ED88u)
#define CCR_UNALIGN_TRP (1u << 3)
#define CPACR_CP10_CP11 (0xfu << 20)

extern uint32_t _stack_top[];
extern char _data_start[], _data_end[], _data_load[];
extern char _bss_start[], _bss_end[], _arena_start[], _arena_end[];

int main(void);
void clio_start(void);

typedef void (*handler)(void);

typedef struct {
    uint32_t *stack_top;
    handler entry[15];
} vector_table;

static void fault(void) {
    static char reason[] = "exception 00";
    uint32_t exception;
    __asm__ volatile("mrs %0, ipsr" : "=r"(exception));
    reason[10] = (char)('0' + exception / 10u % 10u);
    reason[11] = (char)('0' + exception % 10u);
    board_fault(reason);
}

/* Vectors 7 to 10 are reserved on the M7; 7 is SecureFault on the M33. */
__attribute__((section(".vectors"), used)) const vector_table clio_vector_table = {
    _stack_top,
    {clio_start, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault},
};

void clio_start(void) {
    SCB_VTOR = (uint32_t)(uintptr_t)&clio_vector_table;
    SCB_CPACR |= CPACR_CP10_CP11;  /* the compiler may keep integers in registers of the FPU */
    SCB_CCR &= ~CCR_UNALIGN_TRP;   /* the micro-kernels load words from byte addresses */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    memcpy(_data_start, _data_load, (size_t)(_data_end - _data_start));
    memset(_bss_start, 0, (size_t)(_bss_end - _bss_start));
    memset(_arena_start, 0, (size_t)(_arena_end - _arena_start));
    (void)main();
    board_exit(1); /* main ends by board_exit */
}
