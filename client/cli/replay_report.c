/* The result of a replay, for people and as JSON. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/size.h"
#include "client/cli/replay.h"
#include "client/cli/table.h"

void replay_numbers_add(struct replay_numbers *into, const struct replay_numbers *from)
{
    into->requests += from->requests;
    into->references += from->references;
    into->hits += from->hits;
    into->pulled_blocks += from->pulled_blocks;
    into->missed_blocks += from->missed_blocks;
    into->stored_blocks += from->stored_blocks;
    into->held_blocks += from->held_blocks;
    into->refused_blocks += from->refused_blocks;
    into->wrong_blocks += from->wrong_blocks;
    into->wrong_bytes += from->wrong_bytes;
    into->pulled_bytes += from->pulled_bytes;
    into->pushed_bytes += from->pushed_bytes;
    into->hash_ns += from->hash_ns;
    into->fill_ns += from->fill_ns;
    if (from->late_us_max > into->late_us_max) {
        into->late_us_max = from->late_us_max;
    }
    for (uint32_t i = 0; i < REPLAY_STATUS_MAX; i++) {
        into->errors[i] += from->errors[i];
    }
    hist_merge(&into->lookup_us, &from->lookup_us);
    hist_merge(&into->pull_us, &from->pull_us);
    hist_merge(&into->push_us, &from->push_us);
    (void)memcpy(into->mode, from->mode, sizeof into->mode);
}

bool replay_numbers_bad(const struct replay_numbers *numbers)
{
    bool bad = numbers->wrong_bytes > 0 || numbers->missed_blocks > 0;
    for (uint32_t i = 0; i < REPLAY_STATUS_MAX; i++) {
        bad = bad || numbers->errors[i] > 0;
    }
    return bad;
}

static double ratio(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0.0 : (double)part / (double)whole;
}

/* ---- latencies --------------------------------------------------------------------------------
 */

enum { L_WHAT, L_COUNT, L_P50, L_P90, L_P99, L_MAX, L_MEAN, L_RATE, L_COLUMNS };

static const struct table_column latency_columns[L_COLUMNS] = {
    [L_WHAT] = {.name = "operation", .json_name = "operation"},
    [L_COUNT] = {.name = "count", .json_name = "count", .align = TABLE_RIGHT},
    [L_P50] = {.name = "p50 us", .json_name = "p50_us", .align = TABLE_RIGHT},
    [L_P90] = {.name = "p90 us", .json_name = "p90_us", .align = TABLE_RIGHT},
    [L_P99] = {.name = "p99 us", .json_name = "p99_us", .align = TABLE_RIGHT},
    [L_MAX] = {.name = "max us", .json_name = "max_us", .align = TABLE_RIGHT},
    [L_MEAN] = {.name = "mean us", .json_name = "mean_us", .align = TABLE_RIGHT},
    [L_RATE] = {.name = "GB/s", .json_name = "gb_a_second", .align = TABLE_RIGHT},
};

static void latency_row(struct table *table, const char *what, const struct hist *hist,
                        uint64_t bytes)
{
    table_row(table);
    table_text(table, L_WHAT, what);
    table_count(table, L_COUNT, hist->count);
    table_count(table, L_P50, hist_quantile(hist, 0.5));
    table_count(table, L_P90, hist_quantile(hist, 0.9));
    table_count(table, L_P99, hist_quantile(hist, 0.99));
    table_count(table, L_MAX, hist->max);
    table_real(table, L_MEAN, ratio(hist->sum, hist->count), 0);
    if (bytes > 0) {
        table_real(table, L_RATE, ratio(bytes, hist->sum) / 1e3, 2); /* bytes/us = MB/s */
    } else {
        table_set(table, L_RATE, json_null(), "%s", "");
    }
}

static struct table *latency_table(const struct replay_numbers *sum)
{
    struct table *table = table_create(latency_columns, L_COLUMNS, true);
    latency_row(table, "lookup", &sum->lookup_us, 0);
    latency_row(table, "pull", &sum->pull_us, sum->pulled_bytes);
    latency_row(table, "push", &sum->push_us, sum->pushed_bytes);
    return table;
}

/* ---- JSON -------------------------------------------------------------------------------------
 */

static void put(json_t *object, const char *name, uint64_t value)
{
    (void)json_object_set_new(object, name, json_integer((json_int_t)value));
}

static void put_real(json_t *object, const char *name, double value)
{
    (void)json_object_set_new(object, name, json_real(value));
}

static json_t *errors_json(const struct replay_numbers *sum)
{
    json_t *errors = json_object();
    for (uint32_t i = 0; i < REPLAY_STATUS_MAX; i++) {
        if (sum->errors[i] > 0) {
            put(errors, i == 0 ? "OTHER" : status_name(-(int)i), sum->errors[i]);
        }
    }
    return errors;
}

static uint64_t cache_blocks(const struct replay_plan *plan)
{
    return plan->quota_bytes / plan->slot_bytes;
}

static void put_plan(json_t *object, const struct replay_result *result)
{
    const struct replay_plan *plan = result->plan;
    put(object, "block_tokens", plan->block_tokens);
    put(object, "block_bytes", plan->block_bytes);
    put(object, "cache_blocks", cache_blocks(plan));
    put(object, "chunk_blocks", plan->chunk_blocks);
    put(object, "engines", plan->engine_count);
    put(object, "in_flight", plan->in_flight);
    put(object, "speed", plan->speed);
    (void)json_object_set_new(object, "memory", json_string(result->sum->mode));
    (void)json_object_set_new(object, "verified", json_boolean(plan->verify));
}

static int report_json(const struct replay_result *result)
{
    const struct replay_numbers *sum = result->sum;
    double wall_s = (double)result->wall_ns / 1e9;
    json_t *object = json_object();
    (void)json_object_set_new(object, "trace", json_string(result->path));
    put(object, "requests", sum->requests);
    put(object, "references", sum->references);
    put(object, "unique", result->counts->unique);
    put(object, "hits", sum->hits);
    put_real(object, "hit_ratio", ratio(sum->hits, sum->references));
    put_plan(object, result);
    put(object, "pushed_bytes", sum->pushed_bytes);
    put(object, "pulled_bytes", sum->pulled_bytes);
    put(object, "stored_blocks", sum->stored_blocks);
    put(object, "held_blocks", sum->held_blocks);
    put(object, "refused_blocks", sum->refused_blocks);
    put(object, "missed_blocks", sum->missed_blocks);
    if (result->plan->verify) {
        put(object, "wrong_blocks", sum->wrong_blocks);
        put(object, "wrong_bytes", sum->wrong_bytes);
    } else {
        (void)json_object_set_new(object, "wrong_blocks", json_null());
        (void)json_object_set_new(object, "wrong_bytes", json_null());
    }
    (void)json_object_set_new(object, "errors", errors_json(sum));
    put_real(object, "wall_s", wall_s);
    put_real(object, "requests_a_second", wall_s > 0 ? (double)sum->requests / wall_s : 0.0);
    put_real(object, "hash_s", (double)sum->hash_ns / 1e9);
    put_real(object, "late_ms", (double)sum->late_us_max / 1e3);
    struct table *latencies = latency_table(sum);
    (void)json_object_set_new(object, "operations", table_json(latencies));
    table_destroy(latencies);
    return table_print_json(object, stdout);
}

/* ---- people -----------------------------------------------------------------------------------
 */

enum { F_WHAT, F_VALUE, F_NOTE, F_COLUMNS };

static const struct table_column fact_columns[F_COLUMNS] = {
    [F_WHAT] = {.name = "what"},
    [F_VALUE] = {.name = "value", .align = TABLE_RIGHT},
    [F_NOTE] = {.name = "note"},
};

static void fact_count(struct table *table, const char *what, uint64_t value, const char *note)
{
    table_row(table);
    table_text(table, F_WHAT, what);
    table_count(table, F_VALUE, value);
    table_text(table, F_NOTE, note);
}

static void fact_bytes(struct table *table, const char *what, uint64_t bytes, const char *note)
{
    table_row(table);
    table_text(table, F_WHAT, what);
    table_bytes(table, F_VALUE, bytes);
    table_text(table, F_NOTE, note);
}

static void facts_hits(struct table *table, const struct replay_result *result)
{
    const struct replay_plan *plan = result->plan;
    const struct replay_numbers *sum = result->sum;
    char note[200];
    double wall_s = (double)result->wall_ns / 1e9;
    (void)snprintf(note, sizeof note, "in %.2f s, %.0f a second; %u engine%s, %u in flight each",
                   wall_s, wall_s > 0 ? (double)sum->requests / wall_s : 0.0, plan->engine_count,
                   plan->engine_count == 1 ? "" : "s", plan->in_flight);
    fact_count(table, "requests", sum->requests, note);
    (void)snprintf(note, sizeof note, "to %llu unique blocks of %u tokens and %u bytes",
                   (unsigned long long)result->counts->unique, plan->block_tokens,
                   plan->block_bytes);
    fact_count(table, "references", sum->references, note);
    fact_count(table, "hits", sum->hits, "over the leading run of every prompt");
    table_row(table);
    table_text(table, F_WHAT, "hit ratio");
    table_set(table, F_VALUE, NULL, "%.2f %%", 100.0 * ratio(sum->hits, sum->references));
    if (plan->quota_bytes > 0) {
        table_set(table, F_NOTE, NULL, "with a cache of %llu blocks",
                  (unsigned long long)cache_blocks(plan));
    } else {
        table_text(table, F_NOTE, "with all of the daemon's memory");
    }
}

static void facts_bytes(struct table *table, const struct replay_result *result)
{
    const struct replay_numbers *sum = result->sum;
    char note[200];
    (void)snprintf(note, sizeof note, "%llu blocks stored, %llu held already, %llu refused",
                   (unsigned long long)sum->stored_blocks, (unsigned long long)sum->held_blocks,
                   (unsigned long long)sum->refused_blocks);
    fact_bytes(table, "pushed", sum->pushed_bytes, note);
    (void)snprintf(note, sizeof note, "%llu blocks, %llu gone under a lease",
                   (unsigned long long)sum->pulled_blocks, (unsigned long long)sum->missed_blocks);
    fact_bytes(table, "pulled", sum->pulled_bytes, note);
    if (result->plan->verify) {
        (void)snprintf(note, sizeof note, "in %llu blocks; every pulled byte was compared",
                       (unsigned long long)sum->wrong_blocks);
        fact_count(table, "wrong bytes", sum->wrong_bytes, note);
    } else {
        table_row(table);
        table_text(table, F_WHAT, "wrong bytes");
        table_text(table, F_VALUE, "-");
        table_text(table, F_NOTE, "not looked for; --verify does");
    }
    table_row(table);
    table_text(table, F_WHAT, "keys");
    table_set(table, F_VALUE, NULL, "%.2f s", (double)sum->hash_ns / 1e9);
    table_text(table, F_NOTE, "spent on hashing tokens, outside the latencies");
    if (result->plan->speed > 0) {
        table_row(table);
        table_text(table, F_WHAT, "late");
        table_set(table, F_VALUE, NULL, "%.1f ms", (double)sum->late_us_max / 1e3);
        table_text(table, F_NOTE, "at most, behind the trace's clock");
    }
    for (uint32_t i = 0; i < REPLAY_STATUS_MAX; i++) {
        if (sum->errors[i] > 0) {
            fact_count(table, "errors", sum->errors[i],
                       i == 0 ? "of other kinds" : status_text(-(int)i));
        }
    }
}

static int report_people(const struct replay_result *result)
{
    struct table *facts = table_create(fact_columns, F_COLUMNS, false);
    facts_hits(facts, result);
    facts_bytes(facts, result);
    int printed = table_print(facts, stdout);
    table_destroy(facts);
    (void)putchar('\n');
    struct table *latencies = latency_table(result->sum);
    printed = printed == ST_OK ? table_print(latencies, stdout) : printed;
    table_destroy(latencies);
    return printed;
}

int replay_report(const struct cli *cli, const struct replay_result *result)
{
    int printed = cli->json ? report_json(result) : report_people(result);
    if (printed != ST_OK) {
        return cli_fail(CLI_FAILED, "the result could not be written");
    }
    if (result->sum->wrong_bytes > 0) {
        return cli_fail(CLI_FAILED, "%llu wrong bytes were pulled",
                        (unsigned long long)result->sum->wrong_bytes);
    }
    if (replay_numbers_bad(result->sum)) {
        return cli_fail(CLI_FAILED, "not every request ended well");
    }
    return CLI_GOOD;
}
