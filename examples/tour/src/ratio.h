/* Exact fractions that fit two machine words, and say so when they do not. */
#ifndef RECKON_RATIO_H
#define RECKON_RATIO_H

#include <stdbool.h>
#include <stddef.h>

/* In lowest terms; the denominator is positive. */
struct ratio {
    long long num;
    long long den;
};

/* Each writes its result and returns true, or returns false when that does not fit. */
bool ratio_make(long long num, long long den, struct ratio *out);
bool ratio_add(struct ratio a, struct ratio b, struct ratio *out);
bool ratio_subtract(struct ratio a, struct ratio b, struct ratio *out);
bool ratio_multiply(struct ratio a, struct ratio b, struct ratio *out);
bool ratio_divide(struct ratio a, struct ratio b, struct ratio *out);
bool ratio_power(struct ratio base, long long exponent, struct ratio *out);

/* Writes `3`, `-1/2` and the like; as snprintf in what it returns. */
int ratio_print(char *buffer, size_t size, struct ratio value);

#endif
