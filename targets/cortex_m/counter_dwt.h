/* Core cycles from the DWT of a real Cortex-M: real cores count cycles, not instructions. One measurement may last 2^32
 * cycles (20 s at 216 MHz). */
#ifndef CLIO_COUNTER_DWT_H
#define CLIO_COUNTER_DWT_H

#include <stdint.h>

#define COUNTER_UNIT "cycles"

#define DCB_DHCSR (*(volatile uint32_t *)0xE000EDF0u)
#define DCB_DEMCR (*(volatile uint32_t *)0xE000EDFCu)
#define DWT_CTRL (*(volatile uint32_t *)0xE0001000u)
#define DWT_CYCCNT (*(volatile uint32_t *)0xE0001004u)
#define DWT_LAR (*(volatile uint32_t *)0xE0001FB0u)

static inline void counter_start(void) {
    DCB_DEMCR |= 1u << 24; /* TRCENA */
    DWT_LAR = 0xC5ACCE55u; /* the M7 locks its DWT; the M33 has no such lock and ignores this */
    DWT_CYCCNT = 0;
    DWT_CTRL |= 1u; /* CYCCNTENA */
}

static inline uint32_t counter_read(void) {
    return DWT_CYCCNT;
}

static inline uint32_t counter_instructions(uint32_t from, uint32_t to) {
    return to - from;
}

/* A semihosting call without a debugger would be a fault (DHCSR.C_DEBUGEN). */
static inline int board_has_debugger(void) {
    return (DCB_DHCSR & 1u) != 0u;
}

#endif
