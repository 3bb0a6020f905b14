/* STM32F746. Clock as after reset: HSI, 16 MHz. Cycle counts do not depend on it, except that at 216 MHz the flash adds
 * 7 wait states (ART accelerator and caches off, as after reset); set up clock and caches before board_init to measure that. */
#include "counter_dwt.h"
