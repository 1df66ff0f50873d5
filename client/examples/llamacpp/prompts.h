/*
 * Prompts, one a line:
 *
 *   1 2 3, 4                                        token ids
 *   {"tokens": [1, 2, 3], "generate": 4}            with a number of tokens to generate
 *   {"tokens": [1, 2, 3], "singly": [1, 3]}         tokens 1 and 2 are computed one at a time, as
 *                                                   an engine does that has generated them
 */
#ifndef KVEIK_EXAMPLES_PROMPTS_H
#define KVEIK_EXAMPLES_PROMPTS_H

#include <stdbool.h>
#include <stdint.h>

enum { PROMPT_ERROR_BYTES = 128 };

struct prompt {
    uint32_t *tokens; /* room for tokens_max */
    uint32_t token_count;
    uint32_t tokens_max;
    uint32_t vocabulary;
    uint32_t generate;
    uint32_t singly_from; /* [from, to) */
    uint32_t singly_to;
};

/* Reads a line into a prompt whose room and limits are set; `generate` stays when the line does not
 * give it. False: error_out says what is wrong with it. */
bool prompt_parse(struct prompt *prompt, const char *line, char error_out[PROMPT_ERROR_BYTES]);

#endif
