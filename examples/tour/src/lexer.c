#include "lexer.h"

#include <ctype.h>

/* Digits with at most one point in them: 12, 0.25, .5 */
static struct token number(const char **text)
{
    struct token token = {.kind = TOKEN_NUMBER, .at = *text};
    struct ratio value = {0, 1}, place = {1, 1};
    const struct ratio ten = {10, 1};
    bool behind_point = false, fits = true;
    for (; fits && (isdigit((unsigned char)**text) || (**text == '.' && !behind_point)); (*text)++) {
        if (**text == '.') {
            behind_point = true;
            continue;
        }
        struct ratio digit = {**text - '0', 1};
        if (behind_point)
            fits = ratio_divide(place, ten, &place) && ratio_multiply(digit, place, &digit);
        else
            fits = ratio_multiply(value, ten, &value);
        fits = fits && ratio_add(value, digit, &value);
    }
    token.number = value;
    if (!fits)
        token.kind = TOKEN_BAD;
    return token;
}

static struct token name(const char **text)
{
    struct token token = {.kind = TOKEN_NAME, .at = *text};
    int length = 0;
    while (isalnum((unsigned char)**text) || **text == '_') {
        if (length == NAME_SIZE - 1) {
            token.kind = TOKEN_BAD;
            break;
        }
        token.name[length++] = *(*text)++;
    }
    return token;
}

struct token lexer_next(const char **text)
{
    while (isspace((unsigned char)**text))
        (*text)++;
    struct token token = {.kind = TOKEN_BAD, .at = *text};
    char c = **text;
    if (c == '\0') {
        token.kind = TOKEN_END;
        return token;
    }
    if (isdigit((unsigned char)c) || (c == '.' && isdigit((unsigned char)(*text)[1])))
        return number(text);
    if (isalpha((unsigned char)c) || c == '_')
        return name(text);
    (*text)++;
    switch (c) {
    case '(': token.kind = TOKEN_OPEN; break;
    case ')': token.kind = TOKEN_CLOSE; break;
    case '=': token.kind = TOKEN_ASSIGN; break;
    default:
        for (int op = 0; op < OP_COUNT; op++) {
            if (op_table[op].symbol == c) {
                token.kind = TOKEN_OPERATOR;
                token.op = (enum op)op;
            }
        }
    }
    return token;
}
