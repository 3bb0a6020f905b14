/* What GAP8's test firmware uses of PMSIS, with the SDK's signatures: enough to check main.c's syntax and types. */
#ifndef PMSIS_H
#define PMSIS_H

enum { PI_PERF_CYCLES = 17 };

static inline int pmsis_kickoff(void *arg) {
    return arg == 0;
}
static inline void pmsis_exit(int err) {
    (void)err;
}
static inline void pi_perf_conf(unsigned events) {
    (void)events;
}
static inline void pi_perf_reset(void) {
}
static inline void pi_perf_start(void) {
}
static inline unsigned int pi_perf_read(int id) {
    return (unsigned int)id;
}

#endif
