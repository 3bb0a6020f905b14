/* Profiling firmware, in the place of clio_test.c: runs the first test vector twice, the first time to fill the caches, and
 * prints what the board's counter says of the second run, layer by layer of the original network:
 *
 *   layer,cycles
 *   /stem/conv/Conv,123456
 *
 * This is the table that `clio-cc profile --import` takes. On an emulated board it counts instructions and says so in its
 * first line. A layer may take 2^32 counts. */
#include <string.h>

#include "board.h"
#include "clio_model.h"

#ifndef CLIO_OP_HOOK
#error "the profiling firmware needs CLIO_OP_HOOK"
#endif

/* test/clio_vectors.c */
extern const int8_t clio_vectors[];

/* test/clio_layers.c: names as cells of a CSV file, and the layer that each operator counts for. */
extern const uint32_t clio_layer_count;
extern const char *const clio_layers[];
extern const uint32_t clio_layer_of_op[];

int clio_test(void);

static uint32_t spent[(uint32_t)CLIO_OPS + 1u]; /* the last one: what the hooks themselves cost */
static uint32_t started;

void clio_op_begin(uint32_t op) {
    (void)op;
    started = board_counter();
}

void clio_op_end(uint32_t op, const int8_t *output, uint32_t bytes) {
    (void)output;
    (void)bytes;
    spent[op] = board_instructions(started, board_counter());
}

static uint32_t layer_spent(uint32_t layer) {
    uint32_t sum = 0;
    uint32_t op;
    for (op = 0; op < (uint32_t)CLIO_OPS; op++) {
        if (clio_layer_of_op[op] == layer && spent[op] > spent[CLIO_OPS]) {
            sum += spent[op] - spent[CLIO_OPS];
        }
    }
    return sum;
}

static void put_row(const char *layer, uint32_t value) {
    char text[11];
    char *at = text + sizeof text - 1;
    *at = '\0';
    do {
        *--at = (char)('0' + value % 10u);
        value /= 10u;
    } while (value != 0u);
    board_puts(layer);
    board_puts(",");
    board_puts(at);
    board_puts("\n");
}

static void run(void) {
    /* Volatile, or the compiler would merge the hooks into this function, where they cost less than in clio_run. */
    void (*volatile begin)(uint32_t) = clio_op_begin;
    void (*volatile end)(uint32_t, const int8_t *, uint32_t) = clio_op_end;
    const int8_t *from = clio_vectors;
    uint32_t i;
    for (i = 0; i < (uint32_t)CLIO_INPUTS; i++) {
        memcpy(clio_input(i), from, clio_input_bytes(i));
        from += clio_input_bytes(i);
    }
    clio_run();
    begin(CLIO_OPS);
    end(CLIO_OPS, clio_vectors, 0);
}

/* Everything above in one call, by the name that boards with a main of their own expect; returns the exit code. */
int clio_test(void) {
    uint32_t layer;
    run();
    run();
    board_puts("layer,");
    board_puts(board_counter_unit());
    board_puts("\n");
    for (layer = 0; layer < clio_layer_count; layer++) {
        put_row(clio_layers[layer], layer_spent(layer));
    }
    return 0;
}

#ifndef CLIO_TEST_NO_MAIN
int main(void) {
    int code;
    board_init();
    code = clio_test();
    board_exit(code);
    return code;
}
#endif
