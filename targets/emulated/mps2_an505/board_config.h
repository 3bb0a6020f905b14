/* mps2-an505: Cortex-M33 in the secure state; CMSDK timer 0 by its secure address, at 20 MHz. */
#define CMSDK_TIMER_BASE 0x50000000u
#define CMSDK_TICK_NS 50u
#include "counter_cmsdk.h"
