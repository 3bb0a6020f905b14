/* Micro-kernels: for Arm's DSP extension where the compiler has it, else in portable C (the host). Both give the same results. */
#if defined(__ARM_FEATURE_DSP)
#include "dsp/clio_micro.h"
#else
#include "portable/clio_micro.h"
#endif
