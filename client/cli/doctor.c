/* kveik doctor: runs the checks and shows what they found. */
#include "client/cli/doctor.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/size.h"
#include "client/cli/table.h"

struct settings {
    struct cli_common common;
};

static const struct option_spec specs[] = {
    CLI_COMMON_SPECS,
};

static const struct options_table table_of_options = {
    .program = "kveik doctor",
    .version = KVEIK_VERSION,
    .summary =
        "Finds out what works on this machine, and between this process and the daemon, by "
        "trying it: the clock, processor features, huge pages, sealed shared memory, copies "
        "between processes, limits; the daemon's socket, version, memory and disk tier; and, for "
        "each way in which an engine can share its memory, random bytes pushed to the daemon, "
        "pulled back and compared.\v"
        "Every line says what was found: ok; note: fine, but good to know; warning: works, but "
        "slower or with less; problem: does not work; skipped: could not be tried. An arrow "
        "begins what would make it right. It takes a second, changes no setting, and leaves a "
        "few small blocks in the cache, in a space of their own.\n\n"
        "With --json: findings, an array of check, result, finding and advice (null if there is "
        "nothing to do); counts of ok, note, warning, problem, skipped.\n\n"
        "Exit codes: 0 no problem, 1 a problem, 2 wrong usage, 3 no problem but that the daemon "
        "is not reachable.",
    .env_prefix = CLI_ENV_PREFIX,
    .specs = specs,
    .count = ARRAY_COUNT(specs),
    .settings_bytes = sizeof(struct settings),
};

static const char *const result_names[DOCTOR_RESULT_COUNT] = {
    [DOCTOR_OK] = "ok",           [DOCTOR_NOTE] = "note",       [DOCTOR_WARNING] = "warning",
    [DOCTOR_PROBLEM] = "problem", [DOCTOR_SKIPPED] = "skipped",
};

/* As a terminal shows them; dull where nothing is wrong. */
static const char *const result_colours[DOCTOR_RESULT_COUNT] = {
    [DOCTOR_OK] = "32",      [DOCTOR_NOTE] = "36",   [DOCTOR_WARNING] = "33",
    [DOCTOR_PROBLEM] = "31", [DOCTOR_SKIPPED] = "2",
};

void doctor_say(struct doctor *doctor, enum doctor_result result, const char *check,
                const char *advice, const char *format, ...)
{
    KVEIK_ASSERT(result < DOCTOR_RESULT_COUNT);
    char finding[DOCTOR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(finding, sizeof finding, format, args);
    va_end(args);
    doctor->counts[result]++;
    json_t *entry = json_pack("{s:s, s:s, s:s, s:s?}", "check", check, "result",
                              result_names[result], "finding", finding, "advice", advice);
    (void)json_array_append_new(doctor->findings, entry);
}

bool doctor_read_line(const char *path, char *out, size_t out_bytes)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    bool read = fgets(out, (int)out_bytes, file) != NULL;
    (void)fclose(file);
    if (read) {
        out[strcspn(out, "\n")] = '\0';
    }
    return read;
}

bool doctor_number(const char *line, const char *name, uint64_t *number_out)
{
    size_t length = strlen(name);
    if (strncmp(line, name, length) != 0) {
        return false;
    }
    const char *begin = line + length + strspn(line + length, " \t");
    char digits[32];
    (void)snprintf(digits, sizeof digits, "%.*s", (int)strspn(begin, "0123456789"), begin);
    return number_parse(digits, number_out, NULL) == ST_OK;
}

static const char *field(const json_t *entry, const char *name)
{
    return json_string_value(json_object_get(entry, name));
}

static void show_line(const json_t *entry, bool colours)
{
    enum { RESULT_WIDTH = 9, CHECK_WIDTH = 20 };
    const char *result = field(entry, "result");
    const char *colour = "0";
    for (uint32_t i = 0; i < DOCTOR_RESULT_COUNT; i++) {
        colour = strcmp(result, result_names[i]) == 0 ? result_colours[i] : colour;
    }
    (void)printf("%s%s%s%s%-*s%s%-*s%s\n", colours ? "\033[" : "", colours ? colour : "",
                 colours ? "m" : "", "", RESULT_WIDTH, result, colours ? "\033[0m" : "",
                 CHECK_WIDTH, field(entry, "check"), field(entry, "finding"));
    if (field(entry, "advice") != NULL) {
        (void)printf("%*s-> %s\n", RESULT_WIDTH + CHECK_WIDTH, "", field(entry, "advice"));
    }
}

static void show(const struct doctor *doctor)
{
    /* main() has no threads yet that could change the environment */
    bool colours = isatty(STDOUT_FILENO) != 0 && secure_getenv("NO_COLOR") == NULL;
    size_t index = 0;
    json_t *entry = NULL;
    json_array_foreach(doctor->findings, index, entry)
    {
        show_line(entry, colours);
    }
    (void)printf("\n%u ok, %u notes, %u warnings, %u problems, %u skipped\n",
                 doctor->counts[DOCTOR_OK], doctor->counts[DOCTOR_NOTE],
                 doctor->counts[DOCTOR_WARNING], doctor->counts[DOCTOR_PROBLEM],
                 doctor->counts[DOCTOR_SKIPPED]);
}

static int show_json(const struct doctor *doctor)
{
    json_t *counts = json_object();
    for (uint32_t i = 0; i < DOCTOR_RESULT_COUNT; i++) {
        (void)json_object_set_new(counts, result_names[i], json_integer(doctor->counts[i]));
    }
    return table_print_json(json_pack("{s:O, s:o}", "findings", doctor->findings, "counts", counts),
                            stdout);
}

int command_doctor(struct cli *cli, int argc, char **argv)
{
    struct settings settings = {0};
    struct options *options = NULL;
    int code = cli_load(cli, &table_of_options, argc, argv, &settings, &options);
    if (code != CLI_GO_ON) {
        return code;
    }
    struct doctor doctor = {.cli = cli, .findings = json_array()};
    doctor_check_system(&doctor);
    doctor_check_memory(&doctor);
    doctor_check_daemon(&doctor);
    code = CLI_GOOD;
    if (cli->json && show_json(&doctor) != ST_OK) {
        code = cli_fail(CLI_FAILED, "the findings could not be written");
    } else if (!cli->json) {
        show(&doctor);
    }
    if (doctor.counts[DOCTOR_PROBLEM] > 0) {
        code = CLI_FAILED;
    } else if (code == CLI_GOOD && doctor.unreachable) {
        code = CLI_UNREACHABLE;
    }
    json_decref(doctor.findings);
    options_destroy(options);
    return code;
}
