/* Tells libFuzzer which code of the compiled modules an input reaches.

   libFuzzer takes 8-bit counters, which only clang writes; every compiler can call a function at each basic block
   (-fsanitize-coverage=trace-pc). This is that function: it counts in a table that libFuzzer is told of. Two blocks
   that share a counter cost the fuzzer a little of its sight, and nothing else. */

#include <stdint.h>

#define BITS 15
#define SIZE (1 << BITS)

extern void __sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *stop);
extern void __sanitizer_cov_pcs_init(const uintptr_t *start, const uintptr_t *stop);

static uint8_t counters[SIZE];
/* One address and one flag word for each counter: libFuzzer insists on as many as there are counters. */
static uintptr_t places[2 * SIZE];

void __sanitizer_cov_trace_pc(void)
{
    uint64_t place = (uint64_t)(uintptr_t)__builtin_return_address(0);
    uint8_t *counter = &counters[(place * 0x9E3779B97F4A7C15u) >> (64 - BITS)];
    *counter += *counter < 255;
}

/* gcc tells of comparisons of floats, too; libFuzzer does not ask. */
void __sanitizer_cov_trace_cmpf(float left, float right)
{
    (void)left;
    (void)right;
}

void __sanitizer_cov_trace_cmpd(double left, double right)
{
    (void)left;
    (void)right;
}

__attribute__((constructor)) static void announce(void)
{
    for (uintptr_t i = 0; i < SIZE; i++)
        places[2 * i] = (uintptr_t)&counters[i];
    __sanitizer_cov_8bit_counters_init(counters, counters + SIZE);
    __sanitizer_cov_pcs_init(places, places + 2 * SIZE);
}
