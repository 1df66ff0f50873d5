/*
 * `kveik demo`: two engines, one daemon, production prompts. Everything that it shows happened: the
 * prompts share what the trace's prompts shared, both ways to the first token are run and timed,
 * and their logits are compared bit for bit.
 */
#include "client/cli/demo.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "client/cli/cli.h"
#include "client/cli/demo_crew.h"
#include "client/cli/demo_outlived.h"
#include "client/cli/demo_report.h"
#include "client/cli/demo_restart.h"
#include "client/cli/demo_trace.h"

struct demo_options {
    struct cli_common common;
    const char *trace;
    const char *restart;
    uint64_t restart_ms;
    uint32_t window;
    uint32_t requests;
    bool all;
    bool warm;
    uint32_t model;
    uint32_t block_tokens;
    uint32_t tokens_max;
    uint64_t seed;
};

static const char *const model_names[DEMO_MODELS + 1] = {"tiny", "small", "medium", NULL};

#define FIELD(name) offsetof(struct demo_options, name)

// clang-format off
static const struct option_spec specs[] = {
    CLI_COMMON_SPECS,
    {.name = "trace", .kind = OPTION_PATH, .preset = "", .offset = FIELD(trace),
     .preset_note = "400 requests of the Mooncake conversation trace, in the program",
     .help = "take the requests from this file, in the form of the Mooncake traces"},
    {.name = "window", .kind = OPTION_U32, .preset = "400", .min = 1, .max = 1000000,
     .offset = FIELD(window),
     .help = "look at so many requests from the start of the trace"},
    {.name = "requests", .kind = OPTION_U32, .preset = "100", .min = 1, .max = 1000000,
     .offset = FIELD(requests),
     .help = "serve the first so many of the chosen ones"},
    {.name = "all", .kind = OPTION_BOOL, .preset = "no", .offset = FIELD(all),
     .help = "choose every request, those too that share only the opening block with others"},
    {.name = "warm", .kind = OPTION_BOOL, .preset = "no", .offset = FIELD(warm),
     .help = "use what earlier runs with --warm left in the cache, and leave it what is computed"},
    {.name = "model", .kind = OPTION_CHOICE, .preset = "small", .choices = model_names,
     .offset = FIELD(model),
     .help = "size of the engines' model"},
    {.name = "scale", .kind = OPTION_U32, .preset = "64", .min = 16, .max = 512, .unit = "TOKENS",
     .offset = FIELD(block_tokens),
     .help = "tokens that stand for 512 tokens of the trace"},
    {.name = "context", .kind = OPTION_U32, .preset = "2048", .min = 32, .max = DEMO_TOKENS_MAX,
     .unit = "TOKENS", .offset = FIELD(tokens_max),
     .help = "the engines' context; longer prompts are cut to their first so many tokens"},
    {.name = "restart", .kind = OPTION_STRING, .preset = "", .max = 4000, .unit = "COMMAND",
     .preset_note = "the daemon is left alone", .offset = FIELD(restart),
     .help = "once half of the requests are served, run this shell command, which restarts the "
             "daemon, and show what is found after it: blocks outlive the daemon on its disk"},
    {.name = "restart-time", .kind = OPTION_DURATION_MS, .preset = "2min", .min = 1000,
     .max = 3600 * 1000, .offset = FIELD(restart_ms),
     .help = "time for that command, and until the daemon answers again"},
    {.name = "seed", .kind = OPTION_U64, .preset = "1", .offset = FIELD(seed),
     .help = "seed of the weights and of the token ids"},
};
// clang-format on

#undef FIELD

static const struct options_table table = {
    .program = "kveik demo",
    .version = KVEIK_VERSION,
    .summary =
        "Runs two engine processes that share the daemon's cache, on prompts from a production "
        "trace, and shows what the cache gave.\v"
        "The requests: of the first --window requests of the trace, in order, those that share "
        "more than the opening block with another one of them (in the conversation trace one block "
        "opens every prompt); with --all every request. They go to the engines in turn; a request "
        "begins when the earlier ones of its conversation have ended. Token ids are made from the "
        "trace's block ids, so that prompts share prefixes as the production prompts did. Each "
        "prompt is also prefilled in full, in fresh pages: its time is the column \"without\", and "
        "its logits must be the same bit for bit.\n\n"
        "With --restart, both engines pause while the command runs (its output goes to stderr) and "
        "until another daemon answers at the socket, at most for --restart-time; they reconnect by "
        "themselves. A command that fails ends the demo with exit code 1, a daemon that does not "
        "come back with 3.\n\n" CLI_EXIT_HELP,
    .env_prefix = CLI_ENV_PREFIX,
    .specs = specs,
    .count = ARRAY_COUNT(specs),
    .settings_bytes = sizeof(struct demo_options),
};

/* A request of the demo and where it stands. */
struct turn {
    uint32_t request; /* in the trace */
    uint32_t conversation;
    uint32_t engine;
    bool begun;
    bool ended;
};

struct demo {
    const struct demo_options *options;
    struct demo_trace trace;
    struct turn *turns;
    uint32_t turn_count;
    struct demo_crew crew;
    struct demo_report report;
    struct demo_job *job;
    uint32_t begun;     /* turns */
    uint32_t begun_max; /* no more for now */
    const char *socket_path;
    char boot_id[DEMO_BOOT_ID_BYTES]; /* of the daemon after the restart; empty before it */
    struct demo_outlived outlived;
    uint8_t keys[DEMO_TOKENS_MAX / KVEIK_GRAIN_TOKENS * KVEIK_KEY_BYTES]; /* of one prompt */
};

/* ---- choosing -------------------------------------------------------------------------------- */

static int choose(struct demo *demo, struct demo_choice *choice_out, struct error *error)
{
    const struct demo_trace *trace = &demo->trace;
    uint32_t *conversations = heap_calloc(trace->count, sizeof *conversations);
    demo->turns = heap_calloc(trace->count, sizeof *demo->turns);
    if (conversations == NULL || demo->turns == NULL ||
        demo_trace_conversations(trace, conversations) != ST_OK) {
        heap_free(conversations);
        return error_set(error, ST_NO_MEMORY, "no memory for %u requests", trace->count);
    }
    uint32_t eligible = 0;
    for (uint32_t i = 0; i < trace->count; i++) {
        if (!demo->options->all && conversations[i] == DEMO_ALONE) {
            continue;
        }
        if (eligible++ < demo->options->requests) {
            demo->turns[demo->turn_count] = (struct turn){
                .request = i,
                .conversation = conversations[i],
                .engine = demo->turn_count % DEMO_ENGINES,
            };
            demo->turn_count++;
        }
    }
    heap_free(conversations);
    const char *path = demo->options->trace;
    *choice_out = (struct demo_choice){
        .trace = path[0] != '\0' ? path : "a production trace (Mooncake, conversations)",
        .window = trace->count,
        .eligible = eligible,
        .served = demo->turn_count,
        .all = demo->options->all,
    };
    return demo->turn_count > 0
               ? ST_OK
               : error_set(error, ST_INVALID,
                           "no two of the first %u requests share more than the opening block; a "
                           "larger --window or --all finds some",
                           trace->count);
}

/* ---- serving --------------------------------------------------------------------------------- */

/* The next turn of an engine: in order, and none before the earlier ones of its conversation. */
static struct turn *next_turn(struct demo *demo, uint32_t engine)
{
    for (uint32_t i = 0; i < demo->turn_count; i++) {
        struct turn *turn = &demo->turns[i];
        if (turn->begun || turn->engine != engine) {
            continue;
        }
        for (uint32_t k = 0; k < i; k++) {
            const struct turn *earlier = &demo->turns[k];
            if (!earlier->ended && turn->conversation != DEMO_ALONE &&
                earlier->conversation == turn->conversation) {
                return NULL;
            }
        }
        return turn;
    }
    return NULL;
}

/* What was an engine's falls to the other one when its process is gone. */
static void inherit(struct demo *demo, uint32_t lost)
{
    for (uint32_t i = 0; i < demo->turn_count; i++) {
        if (!demo->turns[i].begun && demo->turns[i].engine == lost) {
            demo->turns[i].engine = (lost + 1) % DEMO_ENGINES;
        }
    }
}

static void lose(struct demo *demo, uint32_t engine, struct turn *turn)
{
    turn->ended = true;
    demo_report_lost(&demo->report, engine, demo->trace.requests[turn->request].number);
    inherit(demo, engine);
}

static uint32_t prompt_of(const struct demo *demo, const struct turn *turn, uint32_t *tokens_out)
{
    const struct demo_scale scale = {.block_tokens = demo->options->block_tokens,
                                     .tokens_max = demo->options->tokens_max,
                                     .vocabulary = demo_models[demo->options->model].vocabulary,
                                     .seed = demo->options->seed};
    return demo_prompt(&demo->trace, &demo->trace.requests[turn->request], &scale, tokens_out);
}

/* Remembers what was found and what was pushed, for what outlives the restart. */
static void remember(struct demo *demo, const struct turn *turn, const struct demo_result *result)
{
    uint8_t *keys = demo->keys;
    uint32_t *tokens = demo->job->tokens; /* the job was sent: free until the next is made */
    uint32_t count = prompt_of(demo, turn, tokens);
    if (result->status != ST_OK || result->cache_status != ST_OK ||
        kveik_hash_tokens(NULL, tokens, count, NULL, 0, keys) != KVEIK_OK) {
        return;
    }
    uint32_t found = result->hit_tokens / KVEIK_GRAIN_TOKENS;
    uint32_t used = result->used_tokens / KVEIK_GRAIN_TOKENS;
    uint32_t whole = count / DEMO_BLOCK_TOKENS * (DEMO_BLOCK_TOKENS / KVEIK_GRAIN_TOKENS);
    demo_outlived_found(&demo->outlived, keys, found);
    if (whole > used) {
        demo_outlived_pushed(&demo->outlived, keys + (size_t)used * KVEIK_KEY_BYTES, whole - used);
    }
}

static void give(struct demo *demo, uint32_t engine)
{
    if (!demo_crew_alive(&demo->crew, engine) || demo->crew.workers[engine].job != DEMO_NO_JOB) {
        return;
    }
    struct turn *turn = demo->begun < demo->begun_max ? next_turn(demo, engine) : NULL;
    if (turn == NULL) {
        return;
    }
    struct demo_job *job = demo->job;
    job->index = (uint32_t)(turn - demo->turns);
    job->fresh_first = job->index % 4 >= 2; /* so that neither way always runs on warm caches */
    (void)memcpy(job->boot_id, demo->boot_id, sizeof job->boot_id);
    job->token_count = prompt_of(demo, turn, job->tokens);
    turn->begun = true;
    demo->begun++;
    if (demo_crew_give(&demo->crew, engine, job) != ST_OK) {
        lose(demo, engine, turn);
    }
}

/* So many more turns; when it returns, nobody works. */
static void serve(struct demo *demo, uint32_t turns)
{
    demo->begun_max = demo->begun + turns;
    for (;;) {
        for (uint32_t i = 0; i < DEMO_ENGINES; i++) {
            give(demo, i);
        }
        uint32_t engine = 0;
        struct demo_result result;
        int status = demo_crew_wait(&demo->crew, &engine, &result);
        if (status == ST_PENDING) {
            return; /* nobody works and nothing could be given */
        }
        KVEIK_ASSERT(result.index < demo->turn_count);
        struct turn *turn = &demo->turns[result.index];
        if (status != ST_OK) {
            lose(demo, engine, turn);
            continue;
        }
        turn->ended = true;
        if (demo->options->restart[0] != '\0') {
            remember(demo, turn, &result);
        }
        demo_report_row(&demo->report, engine, demo->trace.requests[turn->request].number, &result);
    }
}

/* ---- the restart ----------------------------------------------------------------------------- */

/* Restarts the daemon, waits until it is back, and says so. Returns an exit code. */
static int restart(struct demo *demo)
{
    uint64_t patience_ms = demo->options->restart_ms;
    struct demo_look look;
    struct error error = {0};
    uint64_t began_ns = clock_ns();
    if (demo_look(&look, demo->socket_path, &error) != ST_OK) {
        return cli_fail(CLI_UNREACHABLE, "before --restart: %s", error.text);
    }
    char old[DEMO_BOOT_ID_BYTES];
    (void)memcpy(old, look.boot_id, sizeof old);
    if (demo_command(demo->options->restart, (uint32_t)patience_ms, &error) != ST_OK) {
        return cli_fail(CLI_FAILED, "--restart: %s", error.text);
    }
    uint64_t used_ms = (clock_ns() - began_ns) / 1000000;
    patience_ms = used_ms < patience_ms ? patience_ms - used_ms : 0;
    int status = demo_look_await(&look, demo->socket_path, old, (uint32_t)patience_ms, &error);
    if (status != ST_OK) {
        return cli_fail(status == ST_UNAVAILABLE ? CLI_UNREACHABLE : CLI_FAILED,
                        "--restart: the command ended well, but %s", error.text);
    }
    (void)memcpy(demo->boot_id, look.boot_id, sizeof demo->boot_id);
    demo_outlived_restart(&demo->outlived);
    demo_report_restart(&demo->report, &look, (double)(clock_ns() - began_ns) / 1e9);
    return CLI_GOOD;
}

static int serve_all(struct demo *demo)
{
    if (demo->options->restart[0] == '\0') {
        serve(demo, demo->turn_count);
        return CLI_GOOD;
    }
    serve(demo, (demo->turn_count + 1) / 2);
    int code = restart(demo);
    if (code != CLI_GOOD) {
        return code;
    }
    serve(demo, demo->turn_count);
    struct demo_look look;
    if (demo_look(&look, demo->socket_path, NULL) == ST_OK) {
        demo->report.disk_read_bytes = look.disk_read_bytes;
    }
    demo->report.outlived_tokens = demo_outlived_count(&demo->outlived) * KVEIK_GRAIN_TOKENS;
    return CLI_GOOD;
}

static int run(struct demo *demo, struct cli *cli)
{
    struct error error = {0};
    struct demo_choice choice;
    const struct demo_options *options = demo->options;
    int status = options->trace[0] != '\0'
                     ? demo_trace_read(&demo->trace, options->trace, options->window, &error)
                     : demo_trace_embedded(&demo->trace, options->window, &error);
    if (status == ST_OK) {
        status = choose(demo, &choice, &error);
    }
    if (status != ST_OK) {
        return cli_fail(status == ST_NO_MEMORY ? CLI_FAILED : CLI_USAGE, "%s", error.text);
    }
    struct demo_setup setup = {
        .model = options->model, .tokens_max = options->tokens_max, .seed = options->seed};
    (void)snprintf(setup.socket_path, sizeof setup.socket_path, "%s",
                   cli->socket_path != NULL ? cli->socket_path : "");
    if (!options->warm &&
        getrandom(setup.isolation, sizeof setup.isolation, 0) != sizeof setup.isolation) {
        return cli_fail(CLI_FAILED, "no random bytes from the system");
    }
    if (demo_crew_start(&demo->crew, &setup, &error) != ST_OK) {
        return cli_fail(error.status == ST_UNAVAILABLE ? CLI_UNREACHABLE : CLI_FAILED, "%s",
                        error.text);
    }
    uint64_t began_ns = clock_ns();
    demo_report_begin(&demo->report, &choice, &setup, cli->json);
    int code = serve_all(demo);
    if (code != CLI_GOOD) {
        return code;
    }
    bool good = demo_report_end(&demo->report, (double)(clock_ns() - began_ns) / 1e9);
    return good ? CLI_GOOD : CLI_FAILED;
}

int command_demo(struct cli *cli, int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], DEMO_ENGINE_WORD) == 0) {
        return demo_engine_main();
    }
    struct demo_options demo_options = {0};
    struct options *options = NULL;
    int code = cli_load(cli, &table, argc, argv, &demo_options, &options);
    if (code != CLI_GO_ON) {
        return code;
    }
    kveik_client *client = NULL; /* says clearly when no daemon is there, before engines start */
    code = cli_connect(cli, "kveik demo", &client);
    kveik_close(client);
    struct demo *demo = heap_calloc(1, sizeof *demo);
    struct demo_job *job = heap_calloc(1, sizeof *job);
    if (code == CLI_GOOD && (demo == NULL || job == NULL)) {
        code = cli_fail(CLI_FAILED, "no memory");
    } else if (code == CLI_GOOD) {
        demo->options = &demo_options;
        demo->job = job;
        demo->socket_path = cli->socket_path;
        code = run(demo, cli);
        demo_crew_finish(&demo->crew);
        demo_report_finish(&demo->report);
        demo_trace_finish(&demo->trace);
        demo_outlived_finish(&demo->outlived);
        heap_free(demo->turns);
    }
    heap_free(job);
    heap_free(demo);
    options_destroy(options);
    return code;
}
