#include "ratio.h"

#include <limits.h>
#include <stdio.h>

static long long gcd(long long a, long long b)
{
    while (b != 0) {
        long long rest = a % b;
        a = b;
        b = rest;
    }
    return a < 0 ? -a : a;
}

/* LLONG_MIN is left out everywhere: its negation does not fit. */
static bool fits_product(long long a, long long b, long long *out)
{
    long long size_a = a < 0 ? -a : a;
    long long size_b = b < 0 ? -b : b;
    if (size_b != 0 && size_a > LLONG_MAX / size_b)
        return false;
    *out = a * b;
    return true;
}

static bool fits_sum(long long a, long long b, long long *out)
{
    if (b > 0 ? a > LLONG_MAX - b : a < -LLONG_MAX - b)
        return false;
    *out = a + b;
    return true;
}

bool ratio_make(long long num, long long den, struct ratio *out)
{
    if (den == 0 || num == LLONG_MIN || den == LLONG_MIN)
        return false;
    long long common = gcd(num, den);
    if (den < 0)
        common = -common;
    *out = (struct ratio){num / common, den / common};
    return true;
}

bool ratio_add(struct ratio a, struct ratio b, struct ratio *out)
{
    long long common = gcd(a.den, b.den);
    long long left, right, num, den;
    return fits_product(a.num, b.den / common, &left) && fits_product(b.num, a.den / common, &right)
        && fits_sum(left, right, &num) && fits_product(a.den / common, b.den, &den) && ratio_make(num, den, out);
}

bool ratio_subtract(struct ratio a, struct ratio b, struct ratio *out)
{
    return ratio_add(a, (struct ratio){-b.num, b.den}, out);
}

bool ratio_multiply(struct ratio a, struct ratio b, struct ratio *out)
{
    /* Shortened crosswise first, so that what fits in the end fits on the way. */
    long long ab = gcd(a.num, b.den);
    long long ba = gcd(b.num, a.den);
    long long num, den;
    return fits_product(a.num / ab, b.num / ba, &num) && fits_product(a.den / ba, b.den / ab, &den)
        && ratio_make(num, den, out);
}

bool ratio_divide(struct ratio a, struct ratio b, struct ratio *out)
{
    struct ratio turned;
    return ratio_make(b.den, b.num, &turned) && ratio_multiply(a, turned, out);
}

bool ratio_power(struct ratio base, long long exponent, struct ratio *out)
{
    struct ratio result = {1, 1};
    if (exponent < 0) {
        if (!ratio_divide(result, base, &base))
            return false;
        exponent = -exponent;
    }
    for (;;) {
        if (exponent % 2 == 1 && !ratio_multiply(result, base, &result))
            return false;
        exponent /= 2;
        if (exponent == 0)
            break;
        if (!ratio_multiply(base, base, &base))
            return false;
    }
    *out = result;
    return true;
}

int ratio_print(char *buffer, size_t size, struct ratio value)
{
    if (value.den == 1)
        return snprintf(buffer, size, "%lld", value.num);
    return snprintf(buffer, size, "%lld/%lld", value.num, value.den);
}
