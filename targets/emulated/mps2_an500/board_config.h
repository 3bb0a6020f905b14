/* mps2-an500: Cortex-M7; CMSDK timer 0 at 25 MHz. */
#define CMSDK_TIMER_BASE 0x40000000u
#define CMSDK_TICK_NS 40u
#include "counter_cmsdk.h"
