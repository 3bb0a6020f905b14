/* Instructions from CMSDK timer 0 of an emulated MPS2 board, which counts down. With `-icount shift=6` QEMU gives every
 * instruction 64 ns of virtual time, longer than one tick of the timer: exact to one instruction either way. One measurement
 * may last 2^32 ticks, more than 2.6e9 instructions. Needs CMSDK_TIMER_BASE and CMSDK_TICK_NS. */
#ifndef CLIO_COUNTER_CMSDK_H
#define CLIO_COUNTER_CMSDK_H

#include <stdint.h>

#define COUNTER_UNIT "instructions"
#define INSTRUCTION_NS 64u
#define CMSDK_TIMER ((volatile uint32_t *)CMSDK_TIMER_BASE)
enum { CMSDK_CTRL, CMSDK_VALUE, CMSDK_RELOAD };

static inline void counter_start(void) {
    CMSDK_TIMER[CMSDK_RELOAD] = 0xffffffffu;
    CMSDK_TIMER[CMSDK_VALUE] = 0xffffffffu;
    CMSDK_TIMER[CMSDK_CTRL] = 1u;
}

static inline uint32_t counter_read(void) {
    return CMSDK_TIMER[CMSDK_VALUE];
}

static inline uint32_t counter_instructions(uint32_t from, uint32_t to) {
    return (uint32_t)(((uint64_t)(from - to) * CMSDK_TICK_NS + INSTRUCTION_NS / 2u) / INSTRUCTION_NS);
}

/* QEMU's semihosting is always there. */
static inline int board_has_debugger(void) {
    return 1;
}

#endif
