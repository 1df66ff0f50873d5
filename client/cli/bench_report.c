#include "client/cli/bench_report.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "client/cli/table.h"

struct bench_metric *bench_metric(struct bench_report *report, const char *unit, const char *format,
                                  ...)
{
    char name[BENCH_NAME_BYTES];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(name, sizeof name, format, args);
    va_end(args);
    KVEIK_ASSERT(length > 0 && length < BENCH_NAME_BYTES);
    for (uint32_t i = 0; i < report->count; i++) {
        if (strcmp(report->metrics[i].name, name) == 0) {
            return &report->metrics[i];
        }
    }
    KVEIK_ASSERT(report->count < BENCH_METRICS_MAX);
    struct bench_metric *metric = &report->metrics[report->count++];
    *metric = (struct bench_metric){.unit = unit};
    memcpy(metric->name, name, (size_t)length + 1);
    return metric;
}

void bench_want(struct bench_metric *metric, enum bench_wanted wanted, double bound)
{
    metric->wanted = wanted;
    metric->bound = bound;
}

double bench_median(struct bench_report *report, const char *name)
{
    for (uint32_t i = 0; i < report->count; i++) {
        if (strcmp(report->metrics[i].name, name) == 0) {
            return samples_median(&report->metrics[i].samples);
        }
    }
    return 0;
}

static bool metric_met(struct bench_metric *metric)
{
    double median = samples_median(&metric->samples);
    switch (metric->wanted) {
    case BENCH_AT_LEAST:
        return median >= metric->bound;
    case BENCH_AT_MOST:
        return median <= metric->bound;
    case BENCH_NOTHING:
        break;
    }
    return true;
}

bool bench_met(struct bench_report *report)
{
    bool met = true;
    for (uint32_t i = 0; i < report->count; i++) {
        met = metric_met(&report->metrics[i]) && met;
    }
    return met;
}

static json_t *metric_json(struct bench_metric *metric)
{
    struct samples *samples = &metric->samples;
    json_t *object =
        json_pack("{s:f, s:f, s:f, s:f, s:i, s:s}", "median", samples_median(samples), "spread",
                  samples_spread(samples), "min", samples_percentile(samples, 0), "max",
                  samples_max(samples), "samples", (int)samples->count, "unit", metric->unit);
    if (metric->wanted != BENCH_NOTHING) {
        const char *sense = metric->wanted == BENCH_AT_LEAST ? "at_least" : "at_most";
        (void)json_object_set_new(object, sense, json_real(metric->bound));
        (void)json_object_set_new(object, "met", json_boolean(metric_met(metric)));
    }
    return object;
}

static void print_json(struct bench_report *report)
{
    json_t *metrics = json_object();
    for (uint32_t i = 0; i < report->count; i++) {
        (void)json_object_set_new(metrics, report->metrics[i].name,
                                  metric_json(&report->metrics[i]));
    }
    json_t *document = json_pack("{s:b, s:O, s:o}", "met", bench_met(report), "facts",
                                 report->facts, "metrics", metrics);
    (void)table_print_json(document, stdout);
}

static void set_number(struct table *table, uint32_t column, double value)
{
    int digits = value >= 1000 ? 0 : value >= 100 ? 1 : value >= 10 ? 2 : 3;
    table_real(table, column, value, digits);
}

static void print_table(struct bench_report *report)
{
    static const struct table_column columns[] = {
        {.name = "measured"},
        {.name = "median", .align = TABLE_RIGHT},
        {.name = "unit"},
        {.name = "max", .align = TABLE_RIGHT}, /* of a rate: on a busy machine, what it can do */
        {.name = "spread", .align = TABLE_RIGHT},
        {.name = "samples", .align = TABLE_RIGHT},
        {.name = "wanted", .align = TABLE_RIGHT},
        {.name = "met"},
    };
    struct table *table = table_create(columns, ARRAY_COUNT(columns), true);
    for (uint32_t i = 0; i < report->count; i++) {
        struct bench_metric *metric = &report->metrics[i];
        table_row(table);
        table_text(table, 0, metric->name);
        set_number(table, 1, samples_median(&metric->samples));
        table_text(table, 2, metric->unit);
        set_number(table, 3, samples_max(&metric->samples));
        table_set(table, 4, NULL, "%.1f %%", 100 * samples_spread(&metric->samples));
        table_count(table, 5, metric->samples.count);
        if (metric->wanted != BENCH_NOTHING) {
            table_set(table, 6, NULL, "%s %g",
                      metric->wanted == BENCH_AT_LEAST ? ">=" : "<=", metric->bound);
            table_text(table, 7, metric_met(metric) ? "yes" : "NO");
        }
    }
    char *facts = json_dumps(report->facts, JSON_COMPACT);
    (void)printf("%s\n\n", facts != NULL ? facts : "");
    json_free_t release = NULL;
    json_get_alloc_funcs(NULL, &release);
    release(facts);
    (void)table_print(table, stdout);
    table_destroy(table);
}

void bench_report_print(struct bench_report *report, bool json)
{
    if (json) {
        print_json(report);
    } else {
        print_table(report);
    }
}

void bench_report_finish(struct bench_report *report)
{
    for (uint32_t i = 0; i < report->count; i++) {
        samples_finish(&report->metrics[i].samples);
    }
    json_decref(report->facts);
    report->count = 0;
    report->facts = NULL;
}
