/*
 * kveik-llama: serves prompts with llama.cpp, and shares their KV through kveikd.
 *
 * Read serve.c for the way of a prompt, share.c for what Kveik is asked, kv_blob.h for the bytes.
 */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

enum {
    GRAIN = 16, /* of Kveik's keys */
    BLOCK_MAX = 4096,
    SPARE_PAGES = 8, /* for pushes of the prompt before */
    FLUSH_MS = 10000,
    EXIT_GOOD = 0,
    EXIT_FAILED = 1,
};

struct settings {
    struct engine_options engine;
    const char *socket;
    const char *isolation;
    const char *prompts;
    const char *logits;
    uint32_t block_tokens;
    uint32_t batch_tokens; /* 0: a block */
    uint32_t generate;
    uint32_t deadline_ms;
    bool no_cache;
    bool check;
    bool json;
};

/* ---- arguments ------------------------------------------------------------------------------- */

enum key {
    OPTION_BATCH = 256,
    OPTION_CHECK,
    OPTION_CONTEXT,
    OPTION_DEADLINE,
    OPTION_FLASH,
    OPTION_ISOLATE,
    OPTION_JSON,
    OPTION_LOGITS,
    OPTION_NO_CACHE,
    OPTION_ROPE_BASE,
    OPTION_VERBOSE,
};

// clang-format off
static const struct argp_option options[] = {
    {"model", 'm', "FILE", 0, "the model, a GGUF file in one piece", 0},
    {"socket", 's', "PATH", 0, "kveikd's engine socket ($KVEIK_SOCKET, or the usual place)", 0},
    {"tokens", 't', "FILE", 0, "prompts, one a line: token ids, or {\"tokens\": [1, 2], "
     "\"generate\": 3}; - is standard input (-)", 0},
    {"generate", 'g', "N", 0, "tokens to generate after each prompt (1)", 0},
    {"block-tokens", 'b', "N", 0, "tokens of a block, a multiple of 16 (64)", 0},
    {"batch-tokens", OPTION_BATCH, "N", 0, "batches end at multiples of this; a multiple of the "
     "block or a divisor of it (as block-tokens). Engines with equal batches get equal logits", 0},
    {"context", OPTION_CONTEXT, "N", 0, "tokens of a prompt and its answer together (4096)", 0},
    {"threads", 'j', "N", 0, "threads that compute (2)", 0},
    {"kv-type", 'k', "TYPE", 0, "of the KV: f32, f16, bf16 or q8_0 (f16)", 0},
    {"flash-attention", OPTION_FLASH, NULL, 0, "with it, V is not kept transposed", 0},
    {"rope-freq-base", OPTION_ROPE_BASE, "X", 0, "another base than the model's", 0},
    {"deadline-ms", OPTION_DEADLINE, "N", 0, "after this, computing is preferred to the cache "
     "(1000)", 0},
    {"isolate", OPTION_ISOLATE, "TEXT", 0, "share only with engines that give the same text", 0},
    {"no-cache", OPTION_NO_CACHE, NULL, 0, "compute everything, and keep nothing", 0},
    {"check", OPTION_CHECK, NULL, 0, "compute each prompt once more without the cache, and compare "
     "all logits bit for bit; the exit status is 1 when some differ", 0},
    {"logits", OPTION_LOGITS, "FILE", 0, "write all logits there, as floats", 0},
    {"json", OPTION_JSON, NULL, 0, "print JSON, one object a line", 0},
    {"verbose", OPTION_VERBOSE, NULL, 0, "let libllama log to standard error", 0},
    {0},
};
// clang-format on

static uint32_t number(struct argp_state *state, const char *name, const char *text, uint32_t max)
{
    char *end = NULL;
    unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || value < 1 || value > max) {
        argp_error(state, "--%s %s: must be a number from 1 to %u", name, text, max);
    }
    return (uint32_t)value;
}

static double positive(struct argp_state *state, const char *name, const char *text)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value > 0)) {
        argp_error(state, "--%s %s: must be a positive number", name, text);
    }
    return value;
}

static void check_settings(struct argp_state *state, struct settings *settings)
{
    uint32_t block = settings->block_tokens;
    if (settings->engine.model_path == NULL) {
        argp_error(state, "--model is needed");
    }
    if (block % GRAIN != 0) {
        argp_error(state, "--block-tokens %u: must be a multiple of %d", block, GRAIN);
    }
    settings->batch_tokens = settings->batch_tokens != 0 ? settings->batch_tokens : block;
    if (settings->batch_tokens % block != 0 && block % settings->batch_tokens != 0) {
        argp_error(state,
                   "--batch-tokens %u: must be a multiple of the block of %u tokens, or "
                   "divide it",
                   settings->batch_tokens, block);
    }
    if (settings->engine.context_tokens < block) {
        argp_error(state, "--context %u: must be at least a block of %u tokens",
                   settings->engine.context_tokens, block);
    }
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct settings *settings = state->input;
    switch (key) {
    case 'm':
        settings->engine.model_path = text;
        break;
    case 's':
        settings->socket = text;
        break;
    case 't':
        settings->prompts = text;
        break;
    case 'g':
        settings->generate = number(state, "generate", text, UINT16_MAX);
        break;
    case 'b':
        settings->block_tokens = number(state, "block-tokens", text, BLOCK_MAX);
        break;
    case OPTION_BATCH:
        settings->batch_tokens = number(state, "batch-tokens", text, BLOCK_MAX);
        break;
    case OPTION_CONTEXT:
        settings->engine.context_tokens = number(state, "context", text, 1u << 24);
        break;
    case 'j':
        settings->engine.threads = (int32_t)number(state, "threads", text, 512);
        break;
    case 'k':
        settings->engine.kv_type = text;
        break;
    case OPTION_FLASH:
        settings->engine.flash_attention = true;
        break;
    case OPTION_ROPE_BASE:
        settings->engine.rope_freq_base = positive(state, "rope-freq-base", text);
        break;
    case OPTION_DEADLINE:
        settings->deadline_ms = number(state, "deadline-ms", text, 3600000);
        break;
    case OPTION_ISOLATE:
        settings->isolation = text;
        break;
    case OPTION_NO_CACHE:
        settings->no_cache = true;
        break;
    case OPTION_CHECK:
        settings->check = true;
        break;
    case OPTION_LOGITS:
        settings->logits = text;
        break;
    case OPTION_JSON:
        settings->json = true;
        break;
    case OPTION_VERBOSE:
        settings->engine.verbose = true;
        break;
    case ARGP_KEY_ARG:
        argp_error(state, "%s: there are no arguments without a name", text);
        break;
    case ARGP_KEY_END:
        check_settings(state, settings);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* ---- building and serving -------------------------------------------------------------------- */

static int complain(const char *error)
{
    (void)fprintf(stderr, "kveik-llama: %s\n", error);
    return EXIT_FAILED;
}

static bool connect_share(const struct settings *settings, struct server *server)
{
    uint8_t model[ENGINE_HASH_BYTES];
    uint8_t rope[ENGINE_HASH_BYTES];
    char error[ENGINE_ERROR_BYTES];
    if (!engine_identify(server->engine, model, rope, error)) {
        (void)complain(error);
        return false;
    }
    uint32_t pages = settings->engine.context_tokens / settings->block_tokens;
    const struct share_options wanted = {
        .socket_path = settings->socket,
        .isolation = settings->isolation,
        .model_id = model,
        .rope_id = rope,
        .kv_heads = engine_kv_heads(server->engine),
        .window_tokens = engine_window_tokens(server->engine),
        .tokens_max = settings->engine.context_tokens,
        .page_count = pages + SPARE_PAGES,
        .step_tokens = settings->batch_tokens > settings->block_tokens ? settings->batch_tokens
                                                                       : settings->block_tokens,
        .deadline_ms = settings->deadline_ms};
    server->share = share_create(&wanted, server->blob, error);
    if (server->share == NULL) {
        (void)complain(error);
    }
    return server->share != NULL;
}

static bool make_room(struct server *server, const struct prompt *prompt)
{
    size_t steps = prompt->generate > 0 ? prompt->generate : 1;
    if (!server->check) {
        return true;
    }
    size_t bytes = steps * engine_vocabulary(server->engine) * sizeof *server->logits;
    float *grown = realloc(server->logits, bytes);
    server->logits = grown != NULL ? grown : server->logits;
    return grown != NULL;
}

/* Serves every line; the exit status. */
static int serve_lines(const struct settings *settings, struct server *server,
                       struct prompt *prompt, FILE *lines)
{
    char *line = NULL;
    size_t room = 0;
    int status = EXIT_GOOD;
    for (uint32_t number = 1; getline(&line, &room, lines) >= 0;) {
        char error[ENGINE_ERROR_BYTES] = "out of memory";
        struct served served;
        if (line[strspn(line, " \t\r\n")] == '\0') {
            continue;
        }
        prompt->generate = settings->generate;
        if (prompt_parse(prompt, line, error) && make_room(server, prompt) &&
            serve(server, prompt, &served, error)) {
            report_prompt(number, prompt, &served, server->check, settings->json);
            status = server->check && !served.same ? EXIT_FAILED : status;
        } else {
            report_failure(number, error, settings->json);
            status = EXIT_FAILED;
        }
        number++;
    }
    free(line);
    return status;
}

static int serve_all(const struct settings *settings, struct server *server)
{
    bool given = strcmp(settings->prompts, "-") != 0;
    uint32_t room = settings->engine.context_tokens;
    struct prompt prompt = {.tokens_max = room, .vocabulary = engine_vocabulary(server->engine)};
    FILE *lines = given ? fopen(settings->prompts, "r") : stdin;
    prompt.tokens = calloc(room, sizeof *prompt.tokens);
    server->pages = calloc(room / settings->block_tokens + 1, sizeof *server->pages);
    int status = EXIT_FAILED;
    if (lines == NULL) {
        (void)complain("the file of prompts cannot be read");
    } else if (prompt.tokens == NULL || server->pages == NULL) {
        (void)complain("out of memory");
    } else {
        status = serve_lines(settings, server, &prompt, lines);
    }
    if (server->share != NULL) {
        struct share_counts counts;
        bool flushed = share_flush(server->share, FLUSH_MS);
        share_count(server->share, &counts);
        report_summary(&counts, flushed, settings->json);
    }
    if (given && lines != NULL) {
        (void)fclose(lines);
    }
    free(server->pages);
    free(server->logits);
    free(prompt.tokens);
    return status;
}

static int run(const struct settings *settings)
{
    char error[ENGINE_ERROR_BYTES];
    struct kv_blob blob = {0};
    struct server server = {
        .blob = &blob, .batch_tokens = settings->batch_tokens, .check = settings->check};
    server.engine = engine_create(&settings->engine, error);
    if (server.engine == NULL) {
        return complain(error);
    }
    int status = EXIT_FAILED;
    if (settings->logits != NULL) {
        server.logits_file = fopen(settings->logits, "wb");
    }
    if (settings->logits != NULL && server.logits_file == NULL) {
        (void)complain("the file for the logits cannot be written");
    } else if (!engine_learn(server.engine, settings->block_tokens, &blob, error)) {
        (void)complain(error);
    } else if (settings->no_cache || connect_share(settings, &server)) {
        status = serve_all(settings, &server);
    }
    if (server.share != NULL) {
        share_destroy(server.share);
    }
    if (server.logits_file != NULL && fclose(server.logits_file) != 0) {
        status = complain("the logits could not be written whole");
    }
    kv_blob_finish(&blob);
    engine_destroy(server.engine);
    return status;
}

int main(int argc, char **argv)
{
    const struct argp argp = {
        .options = options,
        .parser = parse,
        .doc = "Serves prompts with llama.cpp and shares their KV through kveikd: what any engine "
               "with the same model computed before is pulled instead of computed."};
    struct settings settings = {.engine = {.context_tokens = 4096, .threads = 2, .kv_type = "f16"},
                                .prompts = "-",
                                .block_tokens = 64,
                                .generate = 1,
                                .deadline_ms = 1000};
    error_t wrong = argp_parse(&argp, argc, argv, 0, NULL, &settings);
    if (wrong != 0) {
        return complain(strerror(wrong));
    }
    settings.engine.batch_tokens = settings.batch_tokens;
    return run(&settings);
}
