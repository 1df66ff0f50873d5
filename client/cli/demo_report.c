#include "client/cli/demo_report.h"

#include <jansson.h>
#include <stdio.h>

#include "client/cli/demo_crew.h"
#include "client/cli/table.h"

static const double ns_per_ms = 1e6;

void demo_report_begin(struct demo_report *report, const struct demo_choice *choice,
                       const struct demo_setup *setup, bool json)
{
    *report = (struct demo_report){.json = json, .choice = *choice};
    if (json) {
        report->rows = json_array();
        return;
    }
    const struct demo_model *model = &demo_models[setup->model];
    (void)printf(
        "Two engine processes (model \"%s\": %u layers, hidden %u; the same weights) serve "
        "%u requests of %s:\n",
        model->name, model->layers, model->hidden, choice->served, choice->trace);
    if (choice->all) {
        (void)printf("the first of its first %u requests, in order.\n\n", choice->window);
    } else {
        (void)printf("of its first %u requests, those that share more than the opening block with "
                     "another one (%u), the first %u of them, in order.\n\n",
                     choice->window, choice->eligible, choice->served);
    }
    (void)printf("%4s %6s  %-8s %7s %7s %7s %7s %10s %10s %8s  %s\n", "#", "trace", "engine",
                 "prompt", "found", "own", "other", "ttft ms", "without", "speed-up", "logits");
    (void)fflush(stdout);
}

static json_t *row_json(uint32_t engine, uint32_t trace_number, const struct demo_result *result)
{
    return json_pack(
        "{s:i, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:I, s:I,"
        " s:b, s:b, s:s}",
        "trace_number", (int)trace_number, "engine", demo_engine_name(engine), "status",
        status_name(result->status), "prompt_tokens", (int)result->prompt_tokens, "hit_tokens",
        (int)result->hit_tokens, "own_tokens", (int)result->own_tokens, "other_tokens",
        (int)result->other_tokens, "used_tokens", (int)result->used_tokens, "ttft_ms",
        (double)result->cached_ns / ns_per_ms, "full_prefill_ms",
        (double)result->fresh_ns / ns_per_ms, "lookup_ms", (double)result->lookup_ns / ns_per_ms,
        "pull_ms", (double)result->pull_ns / ns_per_ms, "push_ms",
        (double)result->push_ns / ns_per_ms, "pulled_bytes", (json_int_t)result->pulled_bytes,
        "pushed_bytes", (json_int_t)result->pushed_bytes, "logits_identical", result->logits_same,
        "kv_identical", result->kv_same, "cache", status_name(result->cache_status));
}

static void count(struct demo_report *report, const struct demo_result *result)
{
    double cached_ms = (double)result->cached_ns / ns_per_ms;
    double fresh_ms = (double)result->fresh_ns / ns_per_ms;
    report->prompt_tokens += result->prompt_tokens;
    report->hit_tokens += result->hit_tokens;
    report->own_tokens += result->own_tokens;
    report->other_tokens += result->other_tokens;
    report->pulled_bytes += result->pulled_bytes;
    report->pushed_bytes += result->pushed_bytes;
    report->pull_ns += result->pulled_bytes > 0 ? result->pull_ns : 0;
    report->push_ns += result->pushed_bytes > 0 ? result->push_ns : 0;
    struct demo_part *part = &report->parts[report->restarted];
    part->requests++;
    part->hits += result->used_tokens > 0 ? 1 : 0;
    part->prompt_tokens += result->prompt_tokens;
    part->hit_tokens += result->hit_tokens;
    report->same += result->logits_same ? 1 : 0;
    report->kv_same += result->kv_same ? 1 : 0;
    samples_add(&report->cached_ms, cached_ms);
    samples_add(&report->fresh_ms, fresh_ms);
    if (result->used_tokens > 0) {
        report->hits++;
        samples_add(&report->hit_cached_ms, cached_ms);
        samples_add(&report->hit_fresh_ms, fresh_ms);
    }
    if (result->cache_status == ST_OK) {
        samples_add(&report->lookup_us, (double)result->lookup_ns / 1e3);
    } else if (report->uncached++ == 0) {
        (void)snprintf(report->uncached_why, sizeof report->uncached_why, "%s", result->text);
    }
}

void demo_report_row(struct demo_report *report, uint32_t engine, uint32_t trace_number,
                     const struct demo_result *result)
{
    report->requests++;
    if (result->status != ST_OK) {
        report->failed++;
    } else {
        count(report, result);
    }
    if (report->json) {
        (void)json_array_append_new(report->rows, row_json(engine, trace_number, result));
        return;
    }
    if (result->status != ST_OK) {
        (void)printf("%4u %6u  %-8s failed: %s\n", report->requests, trace_number,
                     demo_engine_name(engine), result->text);
    } else {
        double cached_ms = (double)result->cached_ns / ns_per_ms;
        double fresh_ms = (double)result->fresh_ns / ns_per_ms;
        (void)printf("%4u %6u  %-8s %7u %7u %7u %7u %10.1f %10.1f %7.1fx  %s%s\n", report->requests,
                     trace_number, demo_engine_name(engine), result->prompt_tokens,
                     result->hit_tokens, result->own_tokens, result->other_tokens, cached_ms,
                     fresh_ms, fresh_ms / cached_ms,
                     result->logits_same ? "identical" : "DIFFERENT",
                     result->cache_status != ST_OK ? "  (cache not available)" : "");
    }
    (void)fflush(stdout);
}

void demo_report_lost(struct demo_report *report, uint32_t engine, uint32_t trace_number)
{
    struct demo_result lost = {.status = ST_LOST};
    (void)snprintf(lost.text, sizeof lost.text, "the engine's process ended or did not answer");
    demo_report_row(report, engine, trace_number, &lost);
}

void demo_report_restart(struct demo_report *report, const struct demo_look *daemon, double seconds)
{
    report->restarted = true;
    report->daemon = *daemon;
    report->restart_seconds = seconds;
    if (report->json) {
        return;
    }
    if (daemon->blocks > 0) {
        (void)printf("-- kveikd was restarted: %llu blocks came back%s --\n",
                     (unsigned long long)daemon->blocks,
                     daemon->restored_parts > 0 ? " from disk" : "");
    } else {
        (void)printf("-- kveikd was restarted: no blocks came back (its disk tier: %s) --\n",
                     daemon->disk_state);
    }
    (void)fflush(stdout);
}

/* ---- totals ---------------------------------------------------------------------------------- */

static double share(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

static double gbps(uint64_t bytes, uint64_t ns)
{
    return ns > 0 ? (double)bytes / (double)ns : 0;
}

static json_t *latency_json(struct samples *samples)
{
    return json_pack("{s:f, s:f, s:f}", "p50", samples_median(samples), "p90",
                     samples_percentile(samples, 90), "mean", samples_mean(samples));
}

static json_t *totals_json(struct demo_report *report, double seconds)
{
    json_t *ttft = json_pack("{s:o, s:o, s:o, s:o}", "with", latency_json(&report->cached_ms),
                             "without", latency_json(&report->fresh_ms), "with_of_hits",
                             latency_json(&report->hit_cached_ms), "without_of_hits",
                             latency_json(&report->hit_fresh_ms));
    double saved = samples_sum(&report->fresh_ms) - samples_sum(&report->cached_ms);
    json_t *totals = json_pack(
        "{s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:o, s:I, s:I, s:f, "
        "s:f, s:f}",
        "requests", (int)report->requests, "failed", (int)report->failed, "with_hits",
        (int)report->hits, "logits_identical", (int)report->same, "kv_identical",
        (int)report->kv_same, "without_cache", (int)report->uncached, "prompt_tokens",
        (json_int_t)report->prompt_tokens, "hit_tokens", (json_int_t)report->hit_tokens,
        "own_tokens", (json_int_t)report->own_tokens, "other_tokens",
        (json_int_t)report->other_tokens, "hit_ratio",
        share((double)report->hit_tokens, (double)report->prompt_tokens), "other_ratio",
        share((double)report->other_tokens, (double)report->hit_tokens), "prefill_seconds_saved",
        saved / 1e3, "ttft_ms", ttft, "pushed_bytes", (json_int_t)report->pushed_bytes,
        "pulled_bytes", (json_int_t)report->pulled_bytes, "push_gbps",
        gbps(report->pushed_bytes, report->push_ns), "pull_gbps",
        gbps(report->pulled_bytes, report->pull_ns), "seconds", seconds);
    if (report->uncached > 0) {
        (void)json_object_set_new(totals, "without_cache_why", json_string(report->uncached_why));
    }
    return totals;
}

static json_t *part_json(const struct demo_part *part)
{
    return json_pack("{s:i, s:i, s:I, s:I}", "requests", (int)part->requests, "with_hits",
                     (int)part->hits, "prompt_tokens", (json_int_t)part->prompt_tokens,
                     "hit_tokens", (json_int_t)part->hit_tokens);
}

static json_t *restart_json(const struct demo_report *report)
{
    if (!report->restarted) {
        return json_null();
    }
    return json_pack("{s:I, s:I, s:f, s:s, s:o, s:o, s:I, s:I}", "blocks_back",
                     (json_int_t)report->daemon.blocks, "restored_parts",
                     (json_int_t)report->daemon.restored_parts, "seconds", report->restart_seconds,
                     "disk", report->daemon.disk_state, "before", part_json(&report->parts[0]),
                     "after", part_json(&report->parts[1]), "outlived_tokens",
                     (json_int_t)report->outlived_tokens, "disk_read_bytes",
                     (json_int_t)report->disk_read_bytes);
}

static void print_json(struct demo_report *report, double seconds, bool good)
{
    const struct demo_choice *choice = &report->choice;
    json_t *chosen = json_pack("{s:s, s:i, s:s, s:i, s:i}", "trace", choice->trace, "window",
                               (int)choice->window, "rule", choice->all ? "all" : "conversations",
                               "eligible", (int)choice->eligible, "served", (int)choice->served);
    json_t *document = json_pack("{s:b, s:o, s:o, s:o, s:O}", "good", good, "choice", chosen,
                                 "totals", totals_json(report, seconds), "restart",
                                 restart_json(report), "requests", report->rows);
    (void)table_print_json(document, stdout);
}

static void latency_row(struct table *table, const char *name, struct samples *with,
                        struct samples *without)
{
    table_row(table);
    table_text(table, 0, name);
    double cached = samples_median(with);
    double fresh = samples_median(without);
    table_set(table, 1, NULL, "p50 %.1f ms with the cache, %.1f ms without: %.2fx", cached, fresh,
              share(fresh, cached));
    table_row(table);
    table_text(table, 0, "");
    cached = samples_mean(with);
    fresh = samples_mean(without);
    table_set(table, 1, NULL, "mean %.1f ms with the cache, %.1f ms without: %.2fx", cached, fresh,
              share(fresh, cached));
}

static void bytes_row(struct table *table, const char *name, uint64_t bytes, uint64_t ns)
{
    table_row(table);
    table_text(table, 0, name);
    table_set(table, 1, NULL, "%.1f MiB at %.2f GB/s (request to completion)",
              (double)bytes / (1 << 20), gbps(bytes, ns));
}

static void part_row(struct table *table, const char *name, const struct demo_part *part)
{
    table_row(table);
    table_text(table, 0, name);
    table_set(table, 1, NULL, "%u requests, %u with hits: %llu of %llu prompt tokens, %.1f %%",
              part->requests, part->hits, (unsigned long long)part->hit_tokens,
              (unsigned long long)part->prompt_tokens,
              100 * share((double)part->hit_tokens, (double)part->prompt_tokens));
}

static void restart_rows(struct table *table, const struct demo_report *report)
{
    part_row(table, "before the restart", &report->parts[0]);
    part_row(table, "after the restart", &report->parts[1]);
    table_row(table);
    table_text(table, 0, "outlived the restart");
    table_set(table, 1, NULL,
              "%llu of the %llu tokens found after it were pushed before it: %.1f %%",
              (unsigned long long)report->outlived_tokens,
              (unsigned long long)report->parts[1].hit_tokens,
              100 * share((double)report->outlived_tokens, (double)report->parts[1].hit_tokens));
    table_row(table);
    table_text(table, 0, "restart");
    table_set(table, 1, NULL, "%.1f s, %llu blocks back; since then %.1f MiB read from disk",
              report->restart_seconds, (unsigned long long)report->daemon.blocks,
              (double)report->disk_read_bytes / (1 << 20));
}

static void print_totals(struct demo_report *report, double seconds)
{
    static const struct table_column columns[] = {{.name = ""}, {.name = ""}};
    struct table *table = table_create(columns, 2, false);
    double hit_percent = 100 * share((double)report->hit_tokens, (double)report->prompt_tokens);
    table_row(table);
    table_text(table, 0, "requests");
    table_set(table, 1, NULL, "%u, %u of them with hits, %u failed, in %.1f s", report->requests,
              report->hits, report->failed, seconds);
    table_row(table);
    table_text(table, 0, "prompt tokens");
    table_set(table, 1, NULL, "%llu, %llu found in the cache: %.1f %%",
              (unsigned long long)report->prompt_tokens, (unsigned long long)report->hit_tokens,
              hit_percent);
    table_row(table);
    table_text(table, 0, "from the other engine");
    table_set(table, 1, NULL, "%llu tokens: %.1f %% of what was found",
              (unsigned long long)report->other_tokens,
              100 * share((double)report->other_tokens, (double)report->hit_tokens));
    if (report->restarted) {
        restart_rows(table, report);
    }
    latency_row(table, "time to first token", &report->cached_ms, &report->fresh_ms);
    latency_row(table, "of requests with hits", &report->hit_cached_ms, &report->hit_fresh_ms);
    table_row(table);
    table_text(table, 0, "prefill time saved");
    table_set(table, 1, NULL, "%.1f s of %.1f s",
              (samples_sum(&report->fresh_ms) - samples_sum(&report->cached_ms)) / 1e3,
              samples_sum(&report->fresh_ms) / 1e3);
    bytes_row(table, "pushed", report->pushed_bytes, report->push_ns);
    bytes_row(table, "pulled", report->pulled_bytes, report->pull_ns);
    table_row(table);
    table_text(table, 0, "logits bit for bit equal");
    table_set(table, 1, NULL, "%u of %u (all KV equal: %u)", report->same, report->requests,
              report->kv_same);
    (void)printf("\n");
    (void)table_print(table, stdout);
    table_destroy(table);
    if (report->uncached > 0) {
        (void)printf("\n%u requests were served without the cache, as the daemon was not available "
                     "(%s).\n",
                     report->uncached, report->uncached_why);
    }
}

bool demo_report_end(struct demo_report *report, double seconds)
{
    bool good = report->failed == 0 && report->same == report->requests &&
                report->requests == report->choice.served;
    if (report->json) {
        print_json(report, seconds, good);
    } else {
        print_totals(report, seconds);
    }
    return good;
}

void demo_report_finish(struct demo_report *report)
{
    json_decref(report->rows);
    samples_finish(&report->cached_ms);
    samples_finish(&report->fresh_ms);
    samples_finish(&report->hit_cached_ms);
    samples_finish(&report->hit_fresh_ms);
    samples_finish(&report->lookup_us);
}
