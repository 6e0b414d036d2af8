#include "eval.h"

#include <string.h>

static int find(const struct scope *scope, const char *name)
{
    for (int i = 0; i < scope->count; i++)
        if (strcmp(scope->names[i], name) == 0)
            return i;
    return -1;
}

static enum fault remainder_of(struct ratio a, struct ratio b, struct ratio *out)
{
    if (b.num == 0)
        return FAULT_ZERO;
    struct ratio quotient;
    if (!ratio_divide(a, b, &quotient))
        return FAULT_RANGE;
    long long whole = quotient.num / quotient.den;
    if (quotient.num % quotient.den < 0)
        whole--; /* towards minus infinity: the remainder has the sign of b */
    return ratio_multiply((struct ratio){whole, 1}, b, &b) && ratio_subtract(a, b, out) ? FAULT_NONE : FAULT_RANGE;
}

static enum fault apply(enum op op, struct ratio a, struct ratio b, struct ratio *out)
{
    bool fits = false;
    switch (op) {
    case OP_ADD: fits = ratio_add(a, b, out); break;
    case OP_SUBTRACT: fits = ratio_subtract(a, b, out); break;
    case OP_MULTIPLY: fits = ratio_multiply(a, b, out); break;
    case OP_DIVIDE:
        if (b.num == 0)
            return FAULT_ZERO;
        fits = ratio_divide(a, b, out);
        break;
    case OP_REMAINDER: return remainder_of(a, b, out);
    case OP_POWER:
        if (b.den != 1)
            return FAULT_NOT_WHOLE;
        if (a.num == 0 && b.num < 0)
            return FAULT_ZERO;
        fits = ratio_power(a, b.num, out);
        break;
    case OP_COUNT: break;
    }
    return fits ? FAULT_NONE : FAULT_RANGE;
}

/* Children stand before their parents, so one pass from the front settles every node. */
enum fault eval_statement(const struct statement *statement, struct scope *scope, struct ratio *out)
{
    struct ratio values[MAX_NODES];
    for (int i = 0; i < statement->count; i++) {
        const struct node *node = &statement->nodes[i];
        enum fault fault = FAULT_NONE;
        int known;
        switch (node->kind) {
        case NODE_NUMBER: values[i] = node->number; break;
        case NODE_NAME:
            known = find(scope, node->name);
            if (known < 0)
                return FAULT_UNKNOWN_NAME;
            values[i] = scope->values[known];
            break;
        case NODE_NEGATE: values[i] = (struct ratio){-values[node->left].num, values[node->left].den}; break;
        case NODE_BINARY: fault = apply(node->op, values[node->left], values[node->right], &values[i]); break;
        }
        if (fault != FAULT_NONE)
            return fault;
    }
    *out = values[statement->root];
    if (statement->target[0] == '\0')
        return FAULT_NONE;
    int place = find(scope, statement->target);
    if (place < 0) {
        if (scope->count == MAX_NAMES)
            return FAULT_TOO_MANY_NAMES;
        place = scope->count++;
        memcpy(scope->names[place], statement->target, NAME_SIZE);
    }
    scope->values[place] = *out;
    return FAULT_NONE;
}

const char *eval_fault_text(enum fault fault)
{
    switch (fault) {
    case FAULT_NONE: return "no fault";
    case FAULT_UNKNOWN_NAME: return "name without a value";
    case FAULT_TOO_MANY_NAMES: return "more names than there is room for";
    case FAULT_ZERO: return "division by zero";
    case FAULT_NOT_WHOLE: return "exponent is not a whole number";
    case FAULT_RANGE: return "result does not fit";
    }
    return "unknown fault";
}
