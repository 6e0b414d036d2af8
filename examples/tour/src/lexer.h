/* From text to tokens, one at a time. */
#ifndef RECKON_LEXER_H
#define RECKON_LEXER_H

#include "operators.h"
#include "ratio.h"

enum { NAME_SIZE = 16 };

enum token_kind {
    TOKEN_END,
    TOKEN_NUMBER,
    TOKEN_NAME,
    TOKEN_OPERATOR,
    TOKEN_OPEN,
    TOKEN_CLOSE,
    TOKEN_ASSIGN,
    TOKEN_BAD
};

struct token {
    enum token_kind kind;
    const char *at;
    struct ratio number;
    char name[NAME_SIZE];
    enum op op;
};

/* Reads the token at `*text` and moves `*text` behind it. */
struct token lexer_next(const char **text);

#endif
