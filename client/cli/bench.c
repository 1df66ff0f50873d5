/*
 * `kveik bench`: how near the system comes to what this machine can do. Limits are measured in the
 * same run as the thing itself, and what is printed of importance are ratios.
 */
#include "client/cli/bench.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "client/cli/bench_daemon.h"
#include "client/cli/cli.h"

enum { ROUNDS_QUICK = 2, ROUNDS_MIN = 5, AGAINST_NOTHING = 0, AGAINST_REDIS = 1 };

struct bench_options {
    struct cli_common common;
    bool quick;
    uint32_t seconds;
    uint32_t against;
    uint32_t copy_threads;
    const char *program;
    bool check;
};

static const char *const against_choices[] = {"nothing", "redis", NULL};

#define FIELD(name) offsetof(struct bench_options, name)

// clang-format off
static const struct option_spec specs[] = {
    CLI_COMMON_SPECS,
    {.name = "quick", .kind = OPTION_BOOL, .preset = "no", .offset = FIELD(quick),
     .help = "a few small passes, to see that it works; the figures mean little"},
    {.name = "seconds", .kind = OPTION_U32, .preset = "30", .min = 1, .max = 3600,
     .offset = FIELD(seconds),
     .help = "spend about so long on bulk transfer"},
    {.name = "against", .kind = OPTION_CHOICE, .preset = "nothing", .choices = against_choices,
     .offset = FIELD(against),
     .help = "move the same blocks also through another program"},
    {.name = "copy-threads", .kind = OPTION_U32, .preset = "1", .min = 1, .max = 64,
     .offset = FIELD(copy_threads),
     .help = "of the daemon that is started; the limit is one thread's"},
    {.name = "kveikd", .kind = OPTION_PATH, .preset = "", .offset = FIELD(program),
     .preset_note = "beside this program, else on the path",
     .help = "the daemon to start"},
    {.name = "check", .kind = OPTION_BOOL, .preset = "no", .offset = FIELD(check),
     .help = "end with exit code 1 when something wanted is not met"},
};
// clang-format on

#undef FIELD

static const struct options_table table = {
    .program = "kveik bench local",
    .version = KVEIK_VERSION,
    .summary =
        "Measures the CPU tier of one node beside the limits of this machine, in one run, with a "
        "daemon of its own; with --socket, the daemon that is there (which then holds the blocks "
        "of "
        "the benchmark).\v" CLI_EXIT_HELP,
    .env_prefix = CLI_ENV_PREFIX,
    .specs = specs,
    .count = ARRAY_COUNT(specs),
    .settings_bytes = sizeof(struct bench_options),
};

/* ---- local ------------------------------------------------------------------------------------
 */

/* The pool for bulk transfer holds three working sets: it is full, and every push evicts, before
 * samples count. The index gets a daemon of its own, whose pool never fills. */
enum { CACHES_OF_WORKING_SET = 8, QUICK_BYTES = 64 << 20, POOL_FACTOR = 3 };

static const uint64_t index_pool_bytes = 2ull << 30;
/* about what one round of both shapes takes, for --seconds */
static const double round_seconds = 0.6;

typedef int (*section_fn)(struct bench_run *run, struct error *error);

static int transfer_32k(struct bench_run *run, struct error *error)
{
    return bench_transfer(run, &bench_shape_32k, error);
}

static int transfer_512k(struct bench_run *run, struct error *error)
{
    return bench_transfer(run, &bench_shape_512k, error);
}

struct section {
    const char *name;
    section_fn run;
    bool redis; /* only with --against redis */
};

static const struct section bulk_sections[] = {
    {.name = "blocks of 2 MiB", .run = transfer_32k},
    {.name = "blocks of 16 MiB", .run = transfer_512k},
    {.name = "cross-memory", .run = bench_cross},
    {.name = "four engines", .run = bench_engines},
    {.name = "Redis", .run = bench_redis, .redis = true},
};

static const struct section index_sections[] = {
    {.name = "small requests", .run = bench_small},
    {.name = "index", .run = bench_index},
};

struct section_list {
    const struct section *sections;
    uint32_t count;
    uint64_t pool_bytes;
};

/* The sections of a list, with a daemon of their own unless one was named. */
static int run_list(struct bench_run *run, const struct bench_options *options,
                    const struct section_list *list, struct error *error)
{
    struct bench_daemon daemon = {0};
    const char *socket_path = run->socket_path;
    int status = ST_OK;
    if (socket_path == NULL) {
        struct bench_daemon_options wanted = {.program = options->program,
                                              .cpu_bytes = list->pool_bytes,
                                              .copy_threads = options->copy_threads};
        status = bench_daemon_start(&daemon, &wanted, error);
        run->socket_path = daemon.socket_path;
        run->daemon_pid = daemon.pid;
    }
    for (uint32_t i = 0; i < list->count && status == ST_OK; i++) {
        const struct section *section = &list->sections[i];
        if (section->redis && options->against != AGAINST_REDIS) {
            continue;
        }
        cli_progress("%s ...", section->name);
        status = section->run(run, error);
        if (status != ST_OK) {
            (void)error_wrap(error, "%s", section->name);
        }
    }
    cli_progress(NULL);
    run->socket_path = socket_path;
    run->daemon_pid = 0;
    bench_daemon_finish(&daemon);
    return status;
}

static int measure(struct cli *cli, const struct bench_options *options,
                   struct bench_report *report)
{
    struct bench_run run = {
        .report = report, .quick = options->quick, .socket_path = cli->socket_path};
    run.working_bytes =
        options->quick ? QUICK_BYTES : CACHES_OF_WORKING_SET * bench_last_cache_bytes();
    uint32_t rounds = (uint32_t)((double)options->seconds / round_seconds);
    run.rounds = options->quick ? ROUNDS_QUICK : rounds > ROUNDS_MIN ? rounds : ROUNDS_MIN;
    struct section_list bulk = {.sections = bulk_sections,
                                .count = ARRAY_COUNT(bulk_sections),
                                .pool_bytes = POOL_FACTOR * run.working_bytes};
    struct section_list index = {.sections = index_sections,
                                 .count = ARRAY_COUNT(index_sections),
                                 .pool_bytes = index_pool_bytes};
    struct error error = {0};
    report->facts = bench_machine_facts();
    uint64_t began_ns = clock_ns();
    int status = run_list(&run, options, &bulk, &error);
    if (status == ST_OK) {
        status = run_list(&run, options, &index, &error);
    }
    (void)json_object_set_new(report->facts, "working_bytes",
                              json_integer((json_int_t)run.working_bytes));
    (void)json_object_set_new(report->facts, "quick", json_boolean(options->quick));
    (void)json_object_set_new(report->facts, "seconds",
                              json_real((double)(clock_ns() - began_ns) / 1e9));
    if (status != ST_OK) {
        return cli_fail(status == ST_UNAVAILABLE ? CLI_UNREACHABLE : CLI_FAILED, "%s", error.text);
    }
    return CLI_GOOD;
}

static int command_local(struct cli *cli, int argc, char **argv)
{
    static struct bench_report report; /* one run a process; it is large for a stack */
    struct bench_options bench_options = {0};
    struct options *options = NULL;
    int code = cli_load(cli, &table, argc, argv, &bench_options, &options);
    if (code != CLI_GO_ON) {
        return code;
    }
    code = measure(cli, &bench_options, &report);
    if (code == CLI_GOOD) {
        bench_report_print(&report, cli->json);
        code = bench_options.check && !bench_met(&report) ? CLI_FAILED : CLI_GOOD;
    }
    bench_report_finish(&report);
    options_destroy(options);
    return code;
}

/* ---- the list ---------------------------------------------------------------------------------
 */

static const struct command benches[] = {
    {.name = "local",
     .summary = "the CPU tier of one node: push, pull, lookups, small requests, the index",
     .run = command_local},
    {.name = "disk",
     .summary = "the disk tier: push to durable, cold pull, start, write amplification",
     .run = command_bench_disk},
};

static void list(FILE *out)
{
    (void)fprintf(out, "Usage: kveik bench WHAT [OPTION...]\n"
                       "Measures beside this machine's limits. WHAT:\n\n");
    for (uint32_t i = 0; i < ARRAY_COUNT(benches); i++) {
        (void)fprintf(out, "  %-8s %s\n", benches[i].name, benches[i].summary);
    }
    (void)fprintf(out, "\n`kveik bench WHAT --help` lists its options. " CLI_EXIT_HELP "\n");
}

int command_bench(struct cli *cli, int argc, char **argv)
{
    if (argc < 2) {
        list(stdout);
        return CLI_GOOD;
    }
    for (uint32_t i = 0; i < ARRAY_COUNT(benches); i++) {
        if (strcmp(argv[1], benches[i].name) == 0) {
            return benches[i].run(cli, argc - 1, argv + 1);
        }
    }
    if (strcmp(argv[1], "--help") == 0) {
        list(stdout);
        return CLI_GOOD;
    }
    list(stderr);
    return cli_fail(CLI_USAGE, "there is no benchmark \"%s\"", argv[1]);
}
