#include "client/cli/table.h"

#include <libsmartcols/libsmartcols.h>
#include <stdarg.h>
#include <string.h>

#include "base/assert.h"
#include "base/heap.h"
#include "base/size.h"
#include "base/status.h"

#define TABLE_MAGIC 0x4b54424cu

struct table {
    uint32_t magic;
    const struct table_column *columns;
    uint32_t count;
    bool failed; /* memory was short once: the table is not whole */
    struct libscols_table *screen;
    struct libscols_line *line; /* the last; the screen's */
    json_t *rows;
};

struct table *table_create(const struct table_column *columns, uint32_t count, bool headings)
{
    KVEIK_ASSERT(count > 0 && count <= TABLE_COLUMNS_MAX);
    struct table *table = heap_calloc(1, sizeof *table);
    if (table == NULL) {
        return NULL;
    }
    *table = (struct table){.magic = TABLE_MAGIC, .columns = columns, .count = count};
    table->screen = scols_new_table();
    table->rows = json_array();
    if (table->screen == NULL || table->rows == NULL) {
        table_destroy(table);
        return NULL;
    }
    /* without a limit: pipes and narrow terminals get whole cells */
    (void)scols_table_set_termforce(table->screen, SCOLS_TERMFORCE_NEVER);
    (void)scols_table_enable_noheadings(table->screen, headings ? 0 : 1);
    for (uint32_t i = 0; i < count; i++) {
        int flags = columns[i].align == TABLE_RIGHT ? SCOLS_FL_RIGHT : 0;
        if (scols_table_new_column(table->screen, columns[i].name, 0, flags) == NULL) {
            table_destroy(table);
            return NULL;
        }
    }
    return table;
}

void table_destroy(struct table *table)
{
    if (table == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(table, TABLE_MAGIC);
    scols_unref_table(table->screen);
    json_decref(table->rows);
    table->magic = 0;
    heap_free(table);
}

void table_row(struct table *table)
{
    if (table == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(table, TABLE_MAGIC);
    table->line = scols_table_new_line(table->screen, NULL);
    if (table->line == NULL || json_array_append_new(table->rows, json_object()) != 0) {
        table->failed = true;
    }
}

static void set(struct table *table, uint32_t column, json_t *value, const char *text)
{
    KVEIK_ASSERT(column < table->count);
    if (table->line == NULL || scols_line_set_data(table->line, column, text) != 0) {
        table->failed = true;
    }
    const char *name = table->columns[column].json_name;
    if (name == NULL) {
        json_decref(value);
        return;
    }
    json_t *row = json_array_get(table->rows, json_array_size(table->rows) - 1);
    if (json_object_set_new(row, name, value != NULL ? value : json_string(text)) != 0) {
        table->failed = true;
    }
}

void table_set(struct table *table, uint32_t column, json_t *value, const char *format, ...)
{
    if (table == NULL) {
        json_decref(value);
        return;
    }
    char text[TABLE_CELL_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    set(table, column, value, text);
}

void table_text(struct table *table, uint32_t column, const char *text)
{
    if (table != NULL) {
        set(table, column, NULL, text);
    }
}

void table_count(struct table *table, uint32_t column, uint64_t value)
{
    table_set(table, column, json_integer((json_int_t)value), "%llu", (unsigned long long)value);
}

void table_bytes(struct table *table, uint32_t column, uint64_t bytes)
{
    char text[SIZE_TEXT_BYTES];
    size_format_short(bytes, text);
    table_set(table, column, json_integer((json_int_t)bytes), "%s", text);
}

void table_real(struct table *table, uint32_t column, double value, int digits)
{
    table_set(table, column, json_real(value), "%.*f", digits, value);
}

json_t *table_json(const struct table *table)
{
    return table == NULL || table->failed ? NULL : json_incref(table->rows);
}

int table_print(const struct table *table, FILE *out)
{
    if (table == NULL || table->failed) {
        return ST_NO_MEMORY;
    }
    (void)scols_table_set_stream(table->screen, out);
    return scols_print_table(table->screen) == 0 && ferror(out) == 0 ? ST_OK : ST_IO;
}

int table_print_json(json_t *document, FILE *out)
{
    if (document == NULL) {
        return ST_NO_MEMORY;
    }
    int failed = json_dumpf(document, out, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(document);
    return failed == 0 && fputc('\n', out) != EOF ? ST_OK : ST_IO;
}
