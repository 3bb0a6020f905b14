/* What the Zephyr test firmware uses of the kernel. */
#include <stdint.h>

#define K_FOREVER (-1)

uint32_t k_cycle_get_32(void);
int32_t k_sleep(int timeout);
void k_panic(void);
