/* A trap on QEMU's RISC-V `virt` machine: start.S comes here. */
#include <stdint.h>

#include "board.h"

void board_trap(uint32_t cause);

void board_trap(uint32_t cause) {
    static char reason[] = "trap 00";
    reason[5] = (char)('0' + cause / 10u % 10u);
    reason[6] = (char)('0' + cause % 10u);
    board_fault(reason);
}
