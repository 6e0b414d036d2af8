#include "selftest.h"

#include <stdio.h>
#include <string.h>

#include "eval.h"

static const struct {
    const char *text;
    const char *expected; /* a value, a fault, or `?` and the text from where it cannot be read */
} cases[] = {
    {"1 + 2 * 3", "7"},
    {"(1 + 2) * 3", "9"},
    {"8 - 3 - 2", "3"},
    {"2 ^ 3 ^ 2", "512"},
    {"-2 ^ 2", "-4"},
    {"2 * -3", "-6"},
    {"--3", "3"},
    {"1/3 + 1/6", "1/2"},
    {"0.1 + 0.2", "3/10"},
    {".5", "1/2"},
    {"2 ^ -3", "1/8"},
    {"7 % 3", "1"},
    {"-7 % 3", "2"},
    {"7/2 % 1", "1/2"},
    {"knot = 1/2", "1/2"},
    {"knot * 4", "2"},
    {"knot = knot + 1", "3/2"},
    {"9223372036854775807", "9223372036854775807"},
    {"9223372036854775807 + 1", "result does not fit"},
    {"2 ^ 62", "4611686018427387904"},
    {"2 ^ 63", "result does not fit"},
    {"1 / 0", "division by zero"},
    {"1 % 0", "division by zero"},
    {"0 ^ -1", "division by zero"},
    {"2 ^ 0.5", "exponent is not a whole number"},
    {"cord", "name without a value"},
    {"1 +", "?"},
    {"1 2", "?2"},
    {"(1", "?"},
    {"* 2", "?* 2"},
    {"1 $ 2", "?$ 2"},
    {"", "?"},
    {"92233720368547758070", "?92233720368547758070"},
};

static void answer(const char *text, struct scope *scope, char *buffer, size_t size)
{
    struct statement statement;
    struct ratio value;
    const char *stuck = parser_read(text, &statement);
    if (stuck != NULL) {
        snprintf(buffer, size, "?%s", stuck);
        return;
    }
    enum fault fault = eval_statement(&statement, scope, &value);
    if (fault != FAULT_NONE)
        snprintf(buffer, size, "%s", eval_fault_text(fault));
    else
        ratio_print(buffer, size, value);
}

int selftest_run(void)
{
    struct scope scope = {.count = 0};
    const int count = (int)(sizeof cases / sizeof cases[0]);
    int wrong = 0;
    for (int i = 0; i < count; i++) {
        char found[128];
        answer(cases[i].text, &scope, found, sizeof found);
        if (strcmp(found, cases[i].expected) != 0) {
            printf("%s\n  gives    %s\n  expected %s\n", cases[i].text, found, cases[i].expected);
            wrong++;
        }
    }
    printf("%d of %d hold\n", count - wrong, count);
    return wrong;
}
