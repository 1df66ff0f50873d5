/* kveik status: the daemon's own numbers, put into words. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/size.h"
#include "client/cli/cli.h"
#include "client/cli/table.h"

enum { STATUS_TIMEOUT_MS = 5000, UPTIME_BYTES = 48, BLOCKS_FOR_MEAN = 1000 };

struct settings {
    struct cli_common common;
};

// clang-format off
static const struct option_spec specs[] = {
    CLI_COMMON_SPECS,
};
// clang-format on

static const struct options_table table_of_options = {
    .program = "kveik status",
    .version = KVEIK_VERSION,
    .summary =
        "Shows what the daemon of this node holds and does: its sessions, the memory of the CPU "
        "tier, the index, and what was asked of it since its start.\v"
        "The hit ratio counts keys: of those that lookups asked for, the share that was found in "
        "an unbroken run from the beginning of the prompt.\n\n"
        "With --json, the daemon's numbers as they are: version, boot_id (another id: another "
        "daemon, with another memory), pid, uptime_ms, state (up, stopping), socket, sessions, "
        "instances, requests and copies_in_flight (now); cpu: budget_bytes, slab_bytes "
        "(committed), slot_bytes (taken by blocks), part_bytes (payload of them), leased_bytes "
        "(twice leased counts twice), pinned_bytes, touched_bytes, huge_bytes (of them in huge "
        "pages), locked_bytes, commit_failures, unverified (blocks found in memory at the start "
        "and not compared with their checksum yet), file, file_system, written_back, reattached "
        "(what the start found in that file: state (off, empty, taken), why, blocks, bytes, slabs, "
        "slabs_dropped, dropped, verified, damaged, start_ms); disk: state (up, degraded, none, "
        "off), path, io (io_uring, threads) and io_why, readable, writable, last_error, bytes_max, "
        "segments and segments_max, segment_file_bytes, catalogue_bytes, file_system_free_bytes, "
        "part_bytes, parts, parts_on_disk_only, stores_in_flight, loads_in_flight, queued, epoch "
        "and committed_epoch, start_ms, counters; why (instead of these, where there is none); "
        "index: blocks, parts, keys, spaces, shapes, leases, index_bytes, index_live_bytes; "
        "counters, ever growing: lookups, lookup_keys, "
        "lookup_hit_keys, pushes, push_blocks, push_held, push_refused, push_failed, pulls, "
        "pull_keys, pull_missed_keys, evicted_space, evicted_quota, evicted_watermark, "
        "evicted_slab, pushed_bytes, pulled_bytes. Without a daemon: state (unreachable), socket, "
        "status, error, advice.\n\n" CLI_EXIT_HELP,
    .env_prefix = CLI_ENV_PREFIX,
    .specs = specs,
    .count = ARRAY_COUNT(specs),
    .settings_bytes = sizeof(struct settings),
};

enum { COLUMN_WHAT, COLUMN_VALUE, COLUMN_NOTE, COLUMN_COUNT };

static const struct table_column columns[COLUMN_COUNT] = {
    [COLUMN_WHAT] = {.name = "what", .align = TABLE_LEFT},
    [COLUMN_VALUE] = {.name = "value", .align = TABLE_RIGHT},
    [COLUMN_NOTE] = {.name = "note", .align = TABLE_LEFT},
};

static uint64_t number(const json_t *object, const char *group, const char *name)
{
    const json_t *from = group != NULL ? json_object_get(object, group) : object;
    json_int_t value = json_integer_value(json_object_get(from, name));
    return value > 0 ? (uint64_t)value : 0;
}

static const char *text(const json_t *object, const char *name)
{
    const char *value = json_string_value(json_object_get(object, name));
    return value != NULL ? value : "?";
}

static double share(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0.0 : 100.0 * (double)part / (double)whole;
}

static void uptime_text(uint64_t ms, char out[UPTIME_BYTES])
{
    unsigned long long s = ms / 1000;
    if (s < 60) {
        (void)snprintf(out, UPTIME_BYTES, "%llu s", s);
    } else if (s < 3600) {
        (void)snprintf(out, UPTIME_BYTES, "%llu min %llu s", s / 60, s % 60);
    } else if (s < 86400) {
        (void)snprintf(out, UPTIME_BYTES, "%llu h %llu min", s / 3600, s / 60 % 60);
    } else {
        (void)snprintf(out, UPTIME_BYTES, "%llu d %llu h", s / 86400, s / 3600 % 24);
    }
}

static void row_count(struct table *table, const char *what, uint64_t value, const char *note)
{
    table_row(table);
    table_text(table, COLUMN_WHAT, what);
    table_count(table, COLUMN_VALUE, value);
    table_text(table, COLUMN_NOTE, note);
}

static void row_bytes(struct table *table, const char *what, uint64_t bytes, const char *note)
{
    table_row(table);
    table_text(table, COLUMN_WHAT, what);
    table_bytes(table, COLUMN_VALUE, bytes);
    table_text(table, COLUMN_NOTE, note);
}

static void show_daemon(struct table *table, const json_t *status)
{
    char uptime[UPTIME_BYTES];
    uptime_text(number(status, NULL, "uptime_ms"), uptime);
    table_row(table);
    table_text(table, COLUMN_WHAT, "daemon");
    table_text(table, COLUMN_VALUE, text(status, "state"));
    table_set(table, COLUMN_NOTE, NULL, "kveikd %s for %s, pid %llu, socket %s",
              text(status, "version"), uptime, (unsigned long long)number(status, NULL, "pid"),
              text(status, "socket"));
    char note[128];
    (void)snprintf(note, sizeof note, "of %llu engine instances",
                   (unsigned long long)number(status, NULL, "instances"));
    row_count(table, "sessions", number(status, NULL, "sessions"), note);
    (void)snprintf(note, sizeof note, "in flight, with %llu copies",
                   (unsigned long long)number(status, NULL, "copies_in_flight"));
    row_count(table, "requests", number(status, NULL, "requests"), note);
}

/* What the daemon's last start found in the file of the CPU tier. */
static void show_reattached(struct table *table, const json_t *cpu)
{
    const json_t *found = json_object_get(cpu, "reattached");
    const char *state = text(found, "state");
    char note[400];
    if (strcmp(state, "taken") != 0 && strcmp(state, "empty") != 0) {
        return;
    }
    if (strcmp(state, "empty") == 0) {
        (void)snprintf(note, sizeof note, "blocks in %s: %s", text(cpu, "file"),
                       text(found, "why"));
    } else {
        (void)snprintf(note, sizeof note,
                       "blocks in %s; %llu verified, %llu to be, %llu damaged, %llu dropped",
                       text(cpu, "file"), (unsigned long long)number(found, NULL, "verified"),
                       (unsigned long long)number(cpu, NULL, "unverified"),
                       (unsigned long long)number(found, NULL, "damaged"),
                       (unsigned long long)number(found, NULL, "dropped"));
    }
    row_count(table, "  found again", number(found, NULL, "blocks"), note);
}

static void show_cpu(struct table *table, const json_t *status)
{
    uint64_t budget = number(status, "cpu", "budget_bytes");
    uint64_t used = number(status, "cpu", "slot_bytes");
    uint64_t touched = number(status, "cpu", "touched_bytes");
    uint64_t huge = number(status, "cpu", "huge_bytes");
    uint64_t failures = number(status, "cpu", "commit_failures");
    char note[160];
    row_bytes(table, "CPU tier", budget, "budget");
    (void)snprintf(note, sizeof note, "%.1f %% of the budget", share(used, budget));
    row_bytes(table, "  used", used, note);
    row_bytes(table, "  leased", number(status, "cpu", "leased_bytes"),
              "cannot be evicted until released");
    row_bytes(table, "  pinned", number(status, "cpu", "pinned_bytes"), "");
    (void)snprintf(note, sizeof note, "%.1f %% of the budget touched; %.1f %% of that huge",
                   share(touched, budget), share(huge, touched));
    row_bytes(table, "  huge pages", huge, note);
    show_reattached(table, json_object_get(status, "cpu"));
    if (failures > 0) {
        row_count(table, "  refused", failures,
                  "times the system gave no memory: lower --cpu-bytes or raise the cgroup's limit");
    }
}

/* What is wrong with the disk tier, or where it is. */
static void disk_note(const json_t *disk, char *out, size_t out_bytes)
{
    if (!json_is_true(json_object_get(disk, "readable")) ||
        !json_is_true(json_object_get(disk, "writable"))) {
        (void)snprintf(out, out_bytes, "%s%s: %s",
                       json_is_true(json_object_get(disk, "readable")) ? "" : "not readable ",
                       json_is_true(json_object_get(disk, "writable")) ? "" : "not writable",
                       text(disk, "last_error"));
        return;
    }
    (void)snprintf(out, out_bytes, "%s, by %s, %llu of %llu segments", text(disk, "path"),
                   text(disk, "io"),
                   (unsigned long long)json_integer_value(json_object_get(disk, "segments")),
                   (unsigned long long)json_integer_value(json_object_get(disk, "segments_max")));
}

static void show_disk(struct table *table, const json_t *status)
{
    const json_t *disk = json_object_get(status, "disk");
    const char *state = text(disk, "state");
    char note[400];
    if (strcmp(state, "up") != 0 && strcmp(state, "degraded") != 0) {
        table_row(table);
        table_text(table, COLUMN_WHAT, "disk tier");
        table_text(table, COLUMN_VALUE, state);
        table_text(table, COLUMN_NOTE,
                   strcmp(state, "off") == 0 ? "disk is set to no" : text(disk, "why"));
        return;
    }
    disk_note(disk, note, sizeof note);
    row_bytes(table, "disk tier", number(status, "disk", "bytes_max"), note);
    (void)snprintf(note, sizeof note, "%llu parts, %llu of them on disk only",
                   (unsigned long long)number(status, "disk", "parts"),
                   (unsigned long long)number(status, "disk", "parts_on_disk_only"));
    row_bytes(table, "  used", number(status, "disk", "part_bytes"), note);
    const json_t *counters = json_object_get(disk, "counters");
    uint64_t fresh = number(disk, "counters", "written_bytes");
    uint64_t device = number(disk, "counters", "device_bytes");
    (void)snprintf(note, sizeof note, "%.2f bytes written for each; %llu parts wait, %llu dropped",
                   fresh == 0 ? 0.0 : (double)device / (double)fresh,
                   (unsigned long long)number(status, "disk", "queued"),
                   (unsigned long long)number(status, "counters", "store_dropped"));
    row_bytes(table, "  written", fresh, note);
    (void)snprintf(
        note, sizeof note, "%llu parts; %llu damaged, %llu errors",
        (unsigned long long)number(status, "counters", "loads"),
        (unsigned long long)json_integer_value(json_object_get(counters, "corrupt_parts")),
        (unsigned long long)json_integer_value(json_object_get(counters, "read_errors")));
    row_bytes(table, "  read", number(disk, "counters", "read_bytes"), note);
}

static void show_index(struct table *table, const json_t *status)
{
    uint64_t blocks = number(status, "index", "blocks");
    uint64_t live = number(status, "index", "index_live_bytes");
    char note[160];
    (void)snprintf(note, sizeof note, "in %llu parts of %llu spaces",
                   (unsigned long long)number(status, "index", "parts"),
                   (unsigned long long)number(status, "index", "spaces"));
    row_count(table, "blocks", blocks, note);
    unsigned long long keys = number(status, "index", "keys");
    if (blocks >= BLOCKS_FOR_MEAN) {
        (void)snprintf(note, sizeof note, "%.0f bytes a block; %llu keys",
                       (double)live / (double)blocks, keys);
    } else { /* what is fixed would hide what a block takes */
        (void)snprintf(note, sizeof note, "%llu keys", keys);
    }
    row_bytes(table, "  index", live, note);
    row_count(table, "  leases", number(status, "index", "leases"), "");
}

static uint64_t counter(const json_t *status, const char *name)
{
    return number(status, "counters", name);
}

static void show_counters(struct table *table, const json_t *status)
{
    uint64_t asked = counter(status, "lookup_keys");
    uint64_t hit = counter(status, "lookup_hit_keys");
    char note[200];
    table_row(table);
    table_text(table, COLUMN_WHAT, "hit ratio");
    table_set(table, COLUMN_VALUE, NULL, "%.2f %%", share(hit, asked));
    table_set(table, COLUMN_NOTE, NULL, "%llu of %llu keys in %llu lookups",
              (unsigned long long)hit, (unsigned long long)asked,
              (unsigned long long)counter(status, "lookups"));
    (void)snprintf(note, sizeof note, "%llu blocks in %llu pushes; %llu held already",
                   (unsigned long long)counter(status, "push_blocks"),
                   (unsigned long long)counter(status, "pushes"),
                   (unsigned long long)counter(status, "push_held"));
    row_bytes(table, "  pushed", counter(status, "pushed_bytes"), note);
    (void)snprintf(note, sizeof note, "%llu keys in %llu pulls; %llu were gone",
                   (unsigned long long)counter(status, "pull_keys"),
                   (unsigned long long)counter(status, "pulls"),
                   (unsigned long long)counter(status, "pull_missed_keys"));
    row_bytes(table, "  pulled", counter(status, "pulled_bytes"), note);
    (void)snprintf(note, sizeof note, "parts: %llu for space, %llu by quota, %llu for other sizes",
                   (unsigned long long)counter(status, "evicted_space"),
                   (unsigned long long)counter(status, "evicted_quota"),
                   (unsigned long long)counter(status, "evicted_slab"));
    row_count(table, "  evicted",
              counter(status, "evicted_space") + counter(status, "evicted_quota") +
                  counter(status, "evicted_watermark") + counter(status, "evicted_slab"),
              note);
    uint64_t lost = counter(status, "push_refused") + counter(status, "push_failed");
    if (lost > 0) {
        (void)snprintf(note, sizeof note, "blocks not stored: %llu without space, %llu failed",
                       (unsigned long long)counter(status, "push_refused"),
                       (unsigned long long)counter(status, "push_failed"));
        row_count(table, "  refused", lost, note);
    }
}

static int show(const json_t *status)
{
    struct table *table = table_create(columns, COLUMN_COUNT, false);
    show_daemon(table, status);
    show_cpu(table, status);
    show_disk(table, status);
    show_index(table, status);
    show_counters(table, status);
    int printed = table_print(table, stdout);
    table_destroy(table);
    return printed;
}

static int print(const struct cli *cli, const char *json)
{
    json_error_t json_error;
    json_t *status = json_loads(json, 0, &json_error);
    if (!json_is_object(status)) {
        json_decref(status);
        return cli_fail(CLI_FAILED, "the daemon's answer is no JSON object: %s", json_error.text);
    }
    int printed = ST_OK;
    if (cli->json) {
        printed = table_print_json(json_incref(status), stdout);
    } else {
        printed = show(status);
    }
    json_decref(status);
    return printed == ST_OK ? CLI_GOOD : cli_fail(CLI_FAILED, "the table could not be written");
}

int command_status(struct cli *cli, int argc, char **argv)
{
    struct settings settings = {0};
    struct options *options = NULL;
    int code = cli_load(cli, &table_of_options, argc, argv, &settings, &options);
    if (code != CLI_GO_ON) {
        return code;
    }
    kveik_client *client = NULL;
    code = cli_connect(cli, "kveik status", &client);
    if (code == CLI_GOOD) {
        char *json = NULL;
        struct kveik_error error = {0};
        if (kveik_daemon_status(client, STATUS_TIMEOUT_MS, &json, &error) == KVEIK_OK) {
            code = print(cli, json);
            kveik_text_free(json);
        } else {
            code = cli_fail(CLI_FAILED, "the daemon did not say its status: %s", error.text);
        }
    }
    kveik_close(client);
    options_destroy(options);
    return code;
}
