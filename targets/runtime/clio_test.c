/* Test firmware: runs every test vector and reports what the model computed. One text for host, emulated and real boards.
 *
 *   OP <vector> <op> <hash> <instructions>   with CLIO_OP_HOOK; CRC-32 of the op's output, computing it not counted
 *   DUMP <vector> <op> <bytes in hex>        with CLIO_TEST_DUMP_OP=<op>, for that op
 *   OUT <vector> <output> <bytes in hex>
 *   UNIT <vector> <tap> <hash>               CRC-32 of all units of a partition point, as clio_unit hands them out
 *   ZONE <op> <offset>                       with CLIO_RED_ZONES; the op changed a byte of the arena that is not its to
 *                                            write, at this offset or behind it; negative or beyond the end in a guard
 *   STACK <bytes>                            most stack used by a run, and by the hooks where they are compiled in
 *   DONE <mismatches>                        op outputs that differ from clio_expected; exit code 1 if any, or any ZONE
 *
 * OP comes from a run through everything; OUT and UNIT of a partition point from a run that goes no further.
 * Without CLIO_OP_HOOK there are no op outputs to compare: DONE 0 then says only that the firmware came to its end. */
#include <string.h>

#include "board.h"
#include "clio_model.h"

#if defined(CLIO_TEST_DUMP_OP) && !defined(CLIO_OP_HOOK)
#error "CLIO_TEST_DUMP_OP needs CLIO_OP_HOOK"
#endif
#if defined(CLIO_RED_ZONES) && !defined(CLIO_OP_HOOK)
#error "CLIO_RED_ZONES needs CLIO_OP_HOOK"
#endif

/* test/clio_vectors.c: inputs, vector after vector, and CLIO_OPS hashes for each vector. */
extern const uint32_t clio_vector_count;
extern const int8_t clio_vectors[];
extern const uint32_t clio_expected[];

int clio_test(void);

static uint32_t stack_most;

static void put_digits(uint32_t value) {
    static char text[11]; /* static, like all buffers here, to keep the hooks' share of the stack small */
    char *at = text + sizeof text - 1;
    *at = '\0';
    do {
        *--at = (char)('0' + value % 10u);
        value /= 10u;
    } while (value != 0u);
    board_puts(at);
}

static void put_number(uint32_t value) {
    board_puts(" ");
    put_digits(value);
}

static void put_hex(const int8_t *bytes, uint32_t count) {
    static const char digits[] = "0123456789abcdef";
    static char text[65];
    board_puts(" ");
    while (count != 0u) {
        const uint32_t part = count < 32u ? count : 32u;
        uint32_t i;
        for (i = 0; i < part; i++) {
            const uint32_t byte = (uint32_t)bytes[i] & 0xffu;
            text[2u * i] = digits[byte >> 4];
            text[2u * i + 1u] = digits[byte & 15u];
        }
        text[2u * part] = '\0';
        board_puts(text);
        bytes += part;
        count -= part;
    }
}

#if defined(CLIO_OP_HOOK) || CLIO_TAPS > 0

/* CRC-32 as in zlib, four bits at a time; start with 0. */
static uint32_t crc32(uint32_t crc, const int8_t *bytes, uint32_t count) {
    static const uint32_t table[16] = {
        0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
        0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu, 0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu,
    };
    uint32_t i;
    crc = ~crc;
    for (i = 0; i < count; i++) {
        crc ^= (uint32_t)bytes[i] & 0xffu;
        crc = (crc >> 4) ^ table[crc & 15u];
        crc = (crc >> 4) ^ table[crc & 15u];
    }
    return ~crc;
}

static void put_hash(uint32_t hash) {
    int8_t bytes[4];
    uint32_t i;
    for (i = 0; i < 4u; i++) {
        const uint32_t byte = (hash >> (24u - 8u * i)) & 0xffu;
        bytes[i] = (int8_t)(byte < 128u ? (int32_t)byte : (int32_t)byte - 256);
    }
    put_hex(bytes, 4);
}

#endif

#ifdef CLIO_OP_HOOK

/* Passed instead of an operator's index: measure what the hooks themselves cost between their two counter readings. */
#define CALIBRATE 0xffffffffu

static uint32_t vector_index;
static uint32_t reporting; /* only in a run through everything */
static uint32_t mismatches;
static uint32_t op_started;
static uint32_t hook_cost;

#ifdef CLIO_RED_ZONES

/* test/clio_zones.c. Before an operator everything that is dead is filled with a pattern that is new for each operator: whoever
 * reads it, or relies on what was there, gets something wrong. Afterwards all that the operator must not write is as before. */
extern const uint32_t clio_zone_at[];
extern const uint32_t clio_zone_edges[];
extern uint32_t clio_zone_hashes[];

static uint32_t zones_broken;

static int8_t zone_pattern(uint32_t op, uint32_t at) {
    return (int8_t)((op * 37u + at * 11u + 90u) & 127u);
}

/* FNV-1a, by words. */
static uint32_t zone_hash(uint32_t from, uint32_t to) {
    uint32_t hash = 2166136261u;
    for (; from < to && from % 4u != 0u; from++) {
        hash = (hash ^ ((uint32_t)clio_guarded_arena[from] & 0xffu)) * 16777619u;
    }
    for (; to - from >= 4u; from += 4u) {
        uint32_t word;
        memcpy(&word, clio_guarded_arena + from, sizeof word);
        hash = (hash ^ word) * 16777619u;
    }
    for (; from < to; from++) {
        hash = (hash ^ ((uint32_t)clio_guarded_arena[from] & 0xffu)) * 16777619u;
    }
    return hash;
}

static void zones_begin(uint32_t op) {
    uint32_t edge;
    for (edge = clio_zone_at[2u * op]; edge < clio_zone_at[2u * op + 1u]; edge += 2u) {
        uint32_t at;
        for (at = clio_zone_edges[edge]; at < clio_zone_edges[edge + 1u]; at++) {
            clio_guarded_arena[at] = zone_pattern(op, at);
        }
    }
    for (; edge < clio_zone_at[2u * op + 2u]; edge += 2u) {
        const uint32_t zone = (edge - clio_zone_at[2u * op + 1u]) / 2u;
        clio_zone_hashes[zone] = zone_hash(clio_zone_edges[edge], clio_zone_edges[edge + 1u]);
    }
}

/* The first dead byte that has changed between two offsets; the first of the two if none has. */
static uint32_t zone_changed(uint32_t op, uint32_t from, uint32_t to) {
    uint32_t edge;
    for (edge = clio_zone_at[2u * op]; edge < clio_zone_at[2u * op + 1u]; edge += 2u) {
        uint32_t at;
        for (at = clio_zone_edges[edge]; at < clio_zone_edges[edge + 1u]; at++) {
            if (at >= from && at < to && clio_guarded_arena[at] != zone_pattern(op, at)) {
                return at;
            }
        }
    }
    return from;
}

static void zones_end(uint32_t op) {
    uint32_t edge;
    for (edge = clio_zone_at[2u * op + 1u]; edge < clio_zone_at[2u * op + 2u]; edge += 2u) {
        const uint32_t from = clio_zone_edges[edge], to = clio_zone_edges[edge + 1u];
        if (clio_zone_hashes[(edge - clio_zone_at[2u * op + 1u]) / 2u] != zone_hash(from, to)) {
            const uint32_t at = zone_changed(op, from, to);
            zones_broken++;
            board_puts("ZONE");
            put_number(op);
            if (at < (uint32_t)CLIO_GUARD_BYTES) {
                board_puts(" -");
                put_digits((uint32_t)CLIO_GUARD_BYTES - at);
            } else {
                put_number(at - (uint32_t)CLIO_GUARD_BYTES);
            }
            board_puts("\n");
        }
    }
}

#endif

static void report_op(uint32_t op, const int8_t *output, uint32_t bytes, uint32_t instructions) {
    uint32_t hash;
    if (reporting == 0u) {
        return;
    }
    hash = crc32(0, output, bytes);
    if (hash != clio_expected[vector_index * (uint32_t)CLIO_OPS + op]) {
        mismatches++;
    }
    board_puts("OP");
    put_number(vector_index);
    put_number(op);
    put_hash(hash);
    put_number(instructions);
    board_puts("\n");
#ifdef CLIO_TEST_DUMP_OP
    if (op == (uint32_t)(CLIO_TEST_DUMP_OP)) {
        board_puts("DUMP");
        put_number(vector_index);
        put_number(op);
        put_hex(output, bytes);
        board_puts("\n");
    }
#endif
}

void clio_op_begin(uint32_t op) {
    (void)op;
#ifdef CLIO_RED_ZONES
    if (reporting != 0u) {
        zones_begin(op);
    }
#endif
    op_started = board_counter();
}

void clio_op_end(uint32_t op, const int8_t *output, uint32_t bytes) {
    const uint32_t spent = board_instructions(op_started, board_counter());
    if (op == CALIBRATE) {
        hook_cost = spent;
        return;
    }
#ifdef CLIO_RED_ZONES
    if (reporting != 0u) {
        zones_end(op);
    }
#endif
    report_op(op, output, bytes, spent > hook_cost ? spent - hook_cost : 0u);
}

static void calibrate(void) {
    /* Volatile, or the compiler would merge the hooks into this function, where they cost less than in clio_run. */
    void (*volatile begin)(uint32_t) = clio_op_begin;
    void (*volatile end)(uint32_t, const int8_t *, uint32_t) = clio_op_end;
    begin(0);
    end(CALIBRATE, clio_vectors, 0);
}

#endif

static const int8_t *load_inputs(const int8_t *from) {
    uint32_t i;
    for (i = 0; i < (uint32_t)CLIO_INPUTS; i++) {
        memcpy(clio_input(i), from, clio_input_bytes(i));
        from += clio_input_bytes(i);
    }
    return from;
}

/* Runs to partition point `tap`, or through everything for CLIO_TAPS. */
static void run(uint32_t tap) {
#if CLIO_TAPS > 0
    if (tap < (uint32_t)CLIO_TAPS) {
        clio_run_to(tap);
        return;
    }
#endif
    (void)tap;
    clio_run();
}

/* A run with fresh inputs and nothing left of the one before; returns what follows the inputs. */
static const int8_t *run_painted(const int8_t *inputs, uint32_t tap) {
    const int8_t *next;
    uint32_t used;
#ifdef CLIO_OP_HOOK
    clio_forget();
    reporting = tap == (uint32_t)CLIO_TAPS;
#endif
    next = load_inputs(inputs);
    board_stack_paint();
    run(tap);
    used = board_stack_used();
    if (used > stack_most) {
        stack_most = used;
    }
    return next;
}

static void put_output(uint32_t vector, uint32_t index) {
    board_puts("OUT");
    put_number(vector);
    put_number(index);
    put_hex(clio_output(index), clio_output_bytes(index));
    board_puts("\n");
}

#if CLIO_TAPS > 0
static void put_units(uint32_t vector, uint32_t tap) {
    static int8_t unit[CLIO_LARGEST_UNIT_BYTES];
    uint32_t hash = 0;
    uint32_t i;
    for (i = 0; i < clio_units(tap); i++) {
        clio_unit(tap, i, unit);
        hash = crc32(hash, unit, clio_unit_bytes(tap));
    }
    board_puts("UNIT");
    put_number(vector);
    put_number(tap);
    put_hash(hash);
    board_puts("\n");
}
#endif

static const int8_t *test_vector(const int8_t *inputs, uint32_t vector) {
    const int8_t *next;
    uint32_t i;
#if CLIO_TAPS > 0
    for (i = 0; i < (uint32_t)CLIO_TAPS; i++) {
        (void)run_painted(inputs, i);
        put_output(vector, i);
        put_units(vector, i);
    }
#endif
    next = run_painted(inputs, (uint32_t)CLIO_TAPS);
    for (i = (uint32_t)CLIO_TAPS; i < (uint32_t)CLIO_OUTPUTS; i++) {
        put_output(vector, i);
    }
    return next;
}

/* Everything above in one call; returns the exit code. */
int clio_test(void) {
    const int8_t *next = clio_vectors;
    uint32_t wrong = 0;
    uint32_t vector;
#ifdef CLIO_OP_HOOK
    calibrate();
#endif
    for (vector = 0; vector < clio_vector_count; vector++) {
#ifdef CLIO_OP_HOOK
        vector_index = vector;
#endif
        next = test_vector(next, vector);
    }
#ifdef CLIO_OP_HOOK
    wrong = mismatches;
#endif
    board_puts("STACK");
    put_number(stack_most);
    board_puts("\nDONE");
    put_number(wrong);
    board_puts("\n");
#ifdef CLIO_RED_ZONES
    wrong += zones_broken;
#endif
    return wrong == 0u ? 0 : 1;
}

/* A board whose system brings its own main calls clio_test itself. */
#ifndef CLIO_TEST_NO_MAIN
int main(void) {
    int code;
    board_init();
    code = clio_test();
    board_exit(code);
    return code;
}
#endif
