/* reckon: exact arithmetic, one statement a line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "selftest.h"

/* Returns whether the statement had a value. */
static bool reckon(const char *text, struct scope *scope)
{
    struct statement statement;
    const char *stuck = parser_read(text, &statement);
    if (stuck != NULL) {
        fprintf(stderr, "reckon: cannot read on at `%s`\n", *stuck == '\0' ? "end of line" : stuck);
        return false;
    }
    struct ratio value;
    enum fault fault = eval_statement(&statement, scope, &value);
    if (fault != FAULT_NONE) {
        fprintf(stderr, "reckon: %s\n", eval_fault_text(fault));
        return false;
    }
    char buffer[64];
    ratio_print(buffer, sizeof buffer, value);
    puts(buffer);
    return true;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--self-test") == 0)
        return selftest_run() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;

    struct scope scope = {.count = 0};
    bool good = true;
    for (int i = 1; i < argc; i++)
        good = reckon(argv[i], &scope) && good;
    if (argc == 1) {
        char line[1024];
        while (fgets(line, sizeof line, stdin) != NULL) {
            line[strcspn(line, "\n")] = '\0';
            good = reckon(line, &scope) && good;
        }
    }
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
