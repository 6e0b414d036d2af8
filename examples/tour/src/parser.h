/* From tokens to a tree. Binding and grouping come from the generated table of operators. */
#ifndef RECKON_PARSER_H
#define RECKON_PARSER_H

#include "lexer.h"

enum { MAX_NODES = 256, MAX_NESTING = 64 };

enum node_kind { NODE_NUMBER, NODE_NAME, NODE_NEGATE, NODE_BINARY };

/* Children are places in the list of nodes, and stand before their parent. */
struct node {
    enum node_kind kind;
    struct ratio number;
    char name[NAME_SIZE];
    enum op op;
    int left;
    int right;
};

struct statement {
    char target[NAME_SIZE]; /* empty when nothing is assigned */
    struct node nodes[MAX_NODES];
    int count;
    int root;
};

/* Fills `out` and returns NULL, or returns the place in `text` where no statement goes on. */
const char *parser_read(const char *text, struct statement *out);

#endif
