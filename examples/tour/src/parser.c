#include "parser.h"

#include <string.h>

enum { NOWHERE = -1, TIGHTER_THAN_PRODUCTS = 3 };

struct parser {
    const char *text;
    struct token token;
    struct statement *out;
    int nesting;
};

static int expression(struct parser *p, int least_binding);

static void advance(struct parser *p)
{
    p->token = lexer_next(&p->text);
}

static int add(struct parser *p, struct node node)
{
    if (p->out->count == MAX_NODES)
        return NOWHERE;
    p->out->nodes[p->out->count] = node;
    return p->out->count++;
}

/* A number, a name, something in parentheses, or the negation of an operand. */
static int operand(struct parser *p)
{
    struct node node = {.kind = NODE_NUMBER, .number = p->token.number, .left = NOWHERE, .right = NOWHERE};
    int inner;
    switch (p->token.kind) {
    case TOKEN_NUMBER:
        advance(p);
        return add(p, node);
    case TOKEN_NAME:
        node.kind = NODE_NAME;
        memcpy(node.name, p->token.name, NAME_SIZE);
        advance(p);
        return add(p, node);
    case TOKEN_OPEN:
        advance(p);
        inner = expression(p, 0);
        if (inner == NOWHERE || p->token.kind != TOKEN_CLOSE)
            return NOWHERE;
        advance(p);
        return inner;
    case TOKEN_OPERATOR:
        if (p->token.op != OP_SUBTRACT)
            return NOWHERE;
        advance(p);
        /* -2^2 is -(2^2), and -2*3 is (-2)*3. */
        node.kind = NODE_NEGATE;
        node.left = expression(p, TIGHTER_THAN_PRODUCTS);
        return node.left == NOWHERE ? NOWHERE : add(p, node);
    default:
        return NOWHERE;
    }
}

static int expression(struct parser *p, int least_binding)
{
    if (p->nesting == MAX_NESTING)
        return NOWHERE;
    p->nesting++;
    int left = operand(p);
    while (left != NOWHERE && p->token.kind == TOKEN_OPERATOR && op_table[p->token.op].binding >= least_binding) {
        struct node node = {.kind = NODE_BINARY, .op = p->token.op, .left = left};
        advance(p);
        node.right = expression(p, op_table[node.op].binding + !op_table[node.op].groups_right);
        left = node.right == NOWHERE ? NOWHERE : add(p, node);
    }
    p->nesting--;
    return left;
}

const char *parser_read(const char *text, struct statement *out)
{
    struct parser p = {.text = text, .out = out};
    *out = (struct statement){.root = NOWHERE};
    advance(&p);
    if (p.token.kind == TOKEN_NAME) {
        const char *rest = p.text;
        if (lexer_next(&rest).kind == TOKEN_ASSIGN) {
            memcpy(out->target, p.token.name, NAME_SIZE);
            p.text = rest;
            advance(&p);
        }
    }
    out->root = expression(&p, 0);
    return out->root != NOWHERE && p.token.kind == TOKEN_END ? NULL : p.token.at;
}
