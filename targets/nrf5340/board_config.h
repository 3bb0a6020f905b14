/* nRF5340, application core. Clock as after reset: 64 MHz (HFCLKCTRL = 0 doubles it). */
#include "counter_dwt.h"
