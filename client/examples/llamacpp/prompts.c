#include "prompts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct text {
    const char *at;
    char *error;
};

static bool refuse(struct text *text, const char *what)
{
    (void)snprintf(text->error, PROMPT_ERROR_BYTES, "%s at \"%.20s\"", what, text->at);
    return false;
}

static void skip_spaces(struct text *text)
{
    text->at += strspn(text->at, " \t\r\n");
}

static bool take(struct text *text, char wanted)
{
    skip_spaces(text);
    if (*text->at != wanted) {
        return false;
    }
    text->at++;
    return true;
}

static bool take_number(struct text *text, uint32_t limit, uint32_t *number_out)
{
    skip_spaces(text);
    if (*text->at < '0' || *text->at > '9') {
        return refuse(text, "no number");
    }
    char *end = NULL;
    unsigned long long value = strtoull(text->at, &end, 10);
    if (value >= limit) {
        char what[64];
        (void)snprintf(what, sizeof what, "a number that is not below %u", limit);
        return refuse(text, what);
    }
    text->at = end;
    *number_out = (uint32_t)value;
    return true;
}

/* Numbers up to `close`, with commas or without. */
static bool take_tokens(struct text *text, struct prompt *prompt, char close)
{
    while (!take(text, close)) {
        if (prompt->token_count == prompt->tokens_max) {
            char what[64];
            (void)snprintf(what, sizeof what, "more than %u tokens", prompt->tokens_max);
            return refuse(text, what);
        }
        if (!take_number(text, prompt->vocabulary, &prompt->tokens[prompt->token_count])) {
            return false;
        }
        prompt->token_count++;
        (void)take(text, ',');
    }
    return true;
}

static bool take_name(struct text *text, const char *name)
{
    size_t length = strlen(name);
    skip_spaces(text);
    if (strncmp(text->at, name, length) != 0) {
        return false;
    }
    text->at += length;
    return take(text, ':') || refuse(text, "no colon");
}

static bool take_member(struct text *text, struct prompt *prompt)
{
    if (take_name(text, "\"tokens\"")) {
        return (take(text, '[') || refuse(text, "no list")) && take_tokens(text, prompt, ']');
    }
    if (take_name(text, "\"generate\"")) {
        return take_number(text, prompt->tokens_max + 1, &prompt->generate);
    }
    if (take_name(text, "\"singly\"")) {
        uint32_t limit = prompt->tokens_max + 1;
        return (take(text, '[') && take_number(text, limit, &prompt->singly_from) &&
                take(text, ',') && take_number(text, limit, &prompt->singly_to) &&
                take(text, ']')) ||
               refuse(text, "no pair of numbers");
    }
    return refuse(text, "neither \"tokens\", \"generate\" nor \"singly\"");
}

bool prompt_parse(struct prompt *prompt, const char *line, char error_out[PROMPT_ERROR_BYTES])
{
    struct text text = {.at = line, .error = error_out};
    prompt->token_count = 0;
    prompt->singly_from = prompt->singly_to = 0;
    if (take(&text, '{')) {
        do {
            if (!take_member(&text, prompt)) {
                return false;
            }
        } while (take(&text, ','));
        if (!take(&text, '}')) {
            return refuse(&text, "neither a comma nor the end");
        }
    } else if (take(&text, '[')) {
        if (!take_tokens(&text, prompt, ']')) {
            return false;
        }
    } else if (!take_tokens(&text, prompt, '\0')) {
        return false;
    } else {
        text.at--; /* back to the end */
    }
    skip_spaces(&text);
    if (*text.at != '\0') {
        return refuse(&text, "more after the prompt's end");
    }
    if (prompt->token_count == 0) {
        return refuse(&text, "no tokens");
    }
    if (prompt->generate > prompt->tokens_max - prompt->token_count) {
        (void)snprintf(error_out, PROMPT_ERROR_BYTES,
                       "%u tokens and %u to generate do not fit into %u: see --context",
                       prompt->token_count, prompt->generate, prompt->tokens_max);
        return false;
    }
    return true;
}
