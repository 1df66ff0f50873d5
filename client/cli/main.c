/* kveik: finds the command and hands over. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/escape.h"
#include "client/cli/cli.h"

static const struct command commands[] = {
    {.name = "status", .summary = "what the daemon holds and does", .run = command_status},
    {.name = "doctor",
     .summary = "what works on this machine, what does not, and what would help",
     .run = command_doctor},
    {.name = "replay",
     .summary = "play a recorded request trace against the daemon",
     .run = command_replay},
#ifdef KVEIK_CLI_BENCH
    {.name = "bench",
     .summary = "measure the daemon beside this machine's limits",
     .run = command_bench},
#endif
#ifdef KVEIK_CLI_DEMO
    {.name = "demo",
     .summary = "watch a small model answer faster from the cache",
     .run = command_demo},
#endif
    {.name = "replay-engine", .summary = NULL, .run = command_replay_engine},
};

struct settings {
    struct cli_common common;
};

// clang-format off
static const struct option_spec specs[] = {
    CLI_COMMON_SPECS,
};
// clang-format on

/* Built from the commands, since it lists them. */
static char summary[4096];

static const struct options_table table = {
    .program = "kveik",
    .version = KVEIK_VERSION,
    .summary = summary,
    .arguments = "COMMAND [ARGUMENT...]",
    .env_prefix = CLI_ENV_PREFIX,
    .stop_at_argument = true,
    .specs = specs,
    .count = ARRAY_COUNT(specs),
    .settings_bytes = sizeof(struct settings),
};

static void build_summary(void)
{
    size_t used = (size_t)snprintf(summary, sizeof summary,
                                   "kveik looks after kveikd, the KV cache daemon of this "
                                   "node.\vCommands:\n");
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
        if (commands[i].summary != NULL && used < sizeof summary) {
            used += (size_t)snprintf(summary + used, sizeof summary - used, "  %-10s %s\n",
                                     commands[i].name, commands[i].summary);
        }
    }
    KVEIK_ASSERT(used < sizeof summary);
    (void)snprintf(summary + used, sizeof summary - used,
                   "\n`kveik COMMAND --help' explains a command with all its options.\n\n%s",
                   CLI_EXIT_HELP);
}

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

static int refuse(const char *name)
{
    char shown[64];
    bool cut = false;
    (void)escape_text(name, strlen(name), shown, sizeof shown, &cut);
    const char *names[ARRAY_COUNT(commands)];
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
        if (commands[i].summary != NULL) {
            names[count++] = commands[i].name;
        }
    }
    const char *nearest = cli_nearest(names, count, name);
    if (nearest != NULL) {
        return cli_fail(CLI_USAGE, "there is no command \"%s%s\"; did you mean `kveik %s'?", shown,
                        cut ? "..." : "", nearest);
    }
    return cli_fail(CLI_USAGE, "there is no command \"%s%s\"; `kveik --help' lists them", shown,
                    cut ? "..." : "");
}

int main(int argc, char **argv)
{
    (void)signal(SIGPIPE, SIG_IGN);
    build_summary();
    struct cli cli = {0};
    struct settings settings = {0};
    struct options *options = NULL;
    int code = cli_load(&cli, &table, argc, argv, &settings, &options);
    if (code != CLI_GO_ON) {
        return code;
    }
    int count = 0;
    char *const *arguments = options_arguments(options, &count);
    if (count == 0) {
        code = cli_fail(CLI_USAGE, "which command? `kveik --help' lists them");
    } else {
        const struct command *command = find(arguments[0]);
        char **rest = argv + (argc - count);
        KVEIK_ASSERT(rest[0] == arguments[0]);
        code = command != NULL ? command->run(&cli, count, rest) : refuse(arguments[0]);
    }
    options_destroy(options);
    if (fflush(stdout) != 0 && code == CLI_GOOD) {
        code = cli_fail(CLI_FAILED, "the output could not be written");
    }
    return code;
}
