/*
 * One prompt: fetch what is held, compute the rest in batches, generate, push whole blocks.
 *
 * Batches end at multiples of batch_tokens, counted from the prompt's beginning, whatever was found
 * in the cache: so the same tokens are computed in batches of the same shape by everybody, which is
 * what makes logits equal bit for bit. Blocks are exported between two tokens, a few at a time, and
 * their pushes run beside the computing.
 */
#ifndef KVEIK_EXAMPLES_SERVE_H
#define KVEIK_EXAMPLES_SERVE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "engine.h"
#include "prompts.h"
#include "share.h"

enum { SERVE_DIGEST_BYTES = 32 };

struct server {
    struct engine *engine;
    struct kv_blob *blob;
    struct share *share; /* NULL: no cache */
    uint32_t batch_tokens;
    bool check;        /* compute everything once more without the cache, and compare */
    FILE *logits_file; /* gets all logits as floats; NULL: nobody wants them */
    uint32_t *pages;   /* room for a prompt's blocks */
    float *logits;     /* with check: room for all of a prompt's */
};

struct served {
    struct share_found found;
    double first_token_ms;
    double import_ms;
    double compute_ms;                  /* the rest of the prompt */
    double generate_ms;                 /* all tokens after the first */
    uint32_t generated;                 /* they follow the prompt's tokens in its room */
    uint32_t pushed;                    /* blocks handed over */
    uint8_t digest[SERVE_DIGEST_BYTES]; /* SHA-256 of the logits of all steps */
    bool same;                          /* with check: bit for bit */
    double difference;                  /* the largest of one logit */
};

/* False: the engine failed, and error_out says at which token. */
bool serve(struct server *server, struct prompt *prompt, struct served *served_out,
           char error_out[ENGINE_ERROR_BYTES]);

#endif
