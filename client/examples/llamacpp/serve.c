#include "serve.h"

#include <math.h>
#include <openssl/evp.h>
#include <string.h>
#include <time.h>

enum { EXPORTS_A_TOKEN = 2 };

static double now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static uint32_t largest(const float *logits, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++) {
        if (logits[i] > logits[best]) {
            best = i;
        }
    }
    return best;
}

/* ---- computing ------------------------------------------------------------------------------- */

/* Where the batch that begins at `at` ends. */
static uint32_t batch_end(const struct server *server, const struct prompt *prompt, uint32_t at)
{
    uint32_t end = (at / server->batch_tokens + 1) * server->batch_tokens;
    if (at >= prompt->singly_from && at < prompt->singly_to) {
        return at + 1;
    }
    if (at < prompt->singly_from && prompt->singly_from < end &&
        prompt->singly_from < prompt->singly_to) {
        end = prompt->singly_from;
    }
    return end < prompt->token_count ? end : prompt->token_count;
}

/* Returns the logits after the prompt's last token; NULL: *at is where it failed. */
static const float *compute(struct server *server, const struct prompt *prompt, uint32_t *at)
{
    const float *logits = NULL;
    while (*at < prompt->token_count) {
        uint32_t end = batch_end(server, prompt, *at);
        logits = engine_compute(server->engine, prompt->tokens + *at, *at, end - *at);
        if (logits == NULL) {
            return NULL;
        }
        *at = end;
    }
    return logits;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* Returns the tokens that the engine has now. */
static uint32_t fetch(struct server *server, const struct prompt *prompt, struct served *served)
{
    uint32_t block = server->blob->tokens;
    share_fetch(server->share, prompt->tokens, prompt->token_count, server->pages, &served->found);
    double began = now_ms();
    uint32_t tokens = 0;
    bool good = true;
    for (uint32_t i = 0; i < served->found.tokens / block; i++) {
        uint8_t *page = share_page(server->share, server->pages[i]);
        good = good && engine_import(server->engine, server->blob, page, i * block);
        tokens += good ? block : 0;
        share_give_back(server->share, server->pages[i]);
    }
    if (!good) { /* then it is not there, which is never wrong */
        (void)snprintf(served->found.text, SHARE_TEXT_BYTES, "the engine does not take the blocks");
        engine_reset(server->engine);
        tokens = 0;
    }
    served->found.tokens = tokens;
    served->import_ms = now_ms() - began;
    return tokens;
}

/* Pushes at most `limit` of the whole blocks among `tokens` that were not pushed yet. */
static void push(struct server *server, const struct prompt *prompt, uint32_t tokens,
                 uint32_t limit, uint32_t *next)
{
    uint32_t block = server->blob->tokens;
    uint32_t page = 0;
    share_poll(server->share);
    for (uint32_t i = 0; i < limit && (*next + 1) * block <= tokens; i++) {
        if (!share_pushes(server->share) || !share_take_page(server->share, &page)) {
            return;
        }
        if (engine_export(server->engine, server->blob, share_page(server->share, page),
                          *next * block)) {
            share_push(server->share, page, prompt->tokens, *next);
        } else {
            share_give_back(server->share, page);
        }
        *next += 1;
    }
}

/* ---- a prompt -------------------------------------------------------------------------------- */

static bool failed(uint32_t at, char error_out[ENGINE_ERROR_BYTES])
{
    (void)snprintf(error_out, ENGINE_ERROR_BYTES, "the engine fails at token %u", at);
    return false;
}

/* The logits of one step, for whoever wants them. */
static bool keep(struct server *server, EVP_MD_CTX *digest, const float *logits, uint32_t step)
{
    size_t count = engine_vocabulary(server->engine);
    if (server->check) {
        memcpy(server->logits + step * count, logits, count * sizeof *logits);
    }
    bool good = EVP_DigestUpdate(digest, logits, count * sizeof *logits) == 1;
    return good && (server->logits_file == NULL ||
                    fwrite(logits, sizeof *logits, count, server->logits_file) == count);
}

/* The same again without the cache: same batches, same tokens generated. */
static bool check(struct server *server, const struct prompt *prompt, struct served *served,
                  char error_out[ENGINE_ERROR_BYTES])
{
    size_t count = engine_vocabulary(server->engine);
    uint32_t at = 0;
    engine_reset(server->engine);
    const float *logits = compute(server, prompt, &at);
    served->same = true;
    for (uint32_t step = 0; logits != NULL; step++) {
        const float *other = server->logits + step * count;
        served->same = served->same && memcmp(logits, other, count * sizeof *logits) == 0;
        for (size_t i = 0; i < count; i++) {
            double difference = fabs((double)logits[i] - (double)other[i]);
            /* not a number differs from everything */
            if (!(difference <= served->difference)) {
                served->difference = difference;
            }
        }
        if (step + 1 >= served->generated) {
            return true;
        }
        logits = engine_compute(server->engine, prompt->tokens + at, at, 1);
        at += logits != NULL;
    }
    return failed(at, error_out);
}

static bool serve_with(struct server *server, struct prompt *prompt, struct served *served,
                       EVP_MD_CTX *digest, char error_out[ENGINE_ERROR_BYTES])
{
    double began = now_ms();
    engine_reset(server->engine);
    uint32_t at = server->share != NULL ? fetch(server, prompt, served) : 0;
    uint32_t next = at / server->blob->tokens; /* block to push */
    double fetched = now_ms();
    const float *logits = compute(server, prompt, &at);
    uint32_t vocabulary = engine_vocabulary(server->engine);
    bool good = logits != NULL;
    uint32_t steps = prompt->generate > 0 ? prompt->generate : 1;
    double first = 0;
    for (uint32_t step = 0; good && step < steps; step++) {
        if (step > 0) {
            logits = engine_compute(server->engine, prompt->tokens + at, at, 1);
            good = logits != NULL;
            at += good;
        }
        if (good && prompt->generate > 0) {
            prompt->tokens[prompt->token_count + step] = largest(logits, vocabulary);
            served->generated++;
        }
        first = step == 0 ? now_ms() : first;
        good = good && keep(server, digest, logits, step);
        if (server->share != NULL && good) {
            push(server, prompt, at, EXPORTS_A_TOKEN, &next);
        }
    }
    if (!good) {
        return failed(at, error_out);
    }
    served->first_token_ms = first - began;
    served->compute_ms = first - fetched;
    served->generate_ms = now_ms() - first;
    if (server->share != NULL) {
        push(server, prompt, at, UINT32_MAX, &next);
        served->pushed = next - served->found.tokens / server->blob->tokens;
    }
    return !server->check || check(server, prompt, served, error_out);
}

bool serve(struct server *server, struct prompt *prompt, struct served *served_out,
           char error_out[ENGINE_ERROR_BYTES])
{
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    *served_out = (struct served){0};
    bool good = digest != NULL && EVP_DigestInit_ex(digest, EVP_sha256(), NULL) == 1;
    if (!good) {
        (void)snprintf(error_out, ENGINE_ERROR_BYTES, "no SHA-256");
    }
    good = good && serve_with(server, prompt, served_out, digest, error_out) &&
           EVP_DigestFinal_ex(digest, served_out->digest, NULL) == 1;
    EVP_MD_CTX_free(digest);
    return good;
}
