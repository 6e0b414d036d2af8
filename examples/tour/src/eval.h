/* From a tree to its value, with names that keep values from one statement to the next. */
#ifndef RECKON_EVAL_H
#define RECKON_EVAL_H

#include "parser.h"

enum { MAX_NAMES = 64 };

enum fault { FAULT_NONE, FAULT_UNKNOWN_NAME, FAULT_TOO_MANY_NAMES, FAULT_ZERO, FAULT_NOT_WHOLE, FAULT_RANGE };

struct scope {
    char names[MAX_NAMES][NAME_SIZE];
    struct ratio values[MAX_NAMES];
    int count;
};

enum fault eval_statement(const struct statement *statement, struct scope *scope, struct ratio *out);

/* What went wrong, in words. */
const char *eval_fault_text(enum fault fault);

#endif
