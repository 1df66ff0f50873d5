/*
 * Tables for people and for programs, from the same cells: aligned columns through libsmartcols,
 * or a JSON array with one object a row. A shortage of memory is remembered and reported by
 * table_print() and table_json(), so that filling a table needs no checks.
 */
#ifndef KVEIK_CLI_TABLE_H
#define KVEIK_CLI_TABLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { TABLE_COLUMNS_MAX = 24, TABLE_CELL_BYTES = 512 };

enum table_align { TABLE_LEFT, TABLE_RIGHT };

struct table_column {
    const char *name;      /* the heading */
    const char *json_name; /* the field's name; NULL: people only */
    enum table_align align;
};

struct table;

/* `columns` must outlive the table. NULL when memory is short, which all functions accept. */
struct table *table_create(const struct table_column *columns, uint32_t count, bool headings);

/* Accepts NULL. */
void table_destroy(struct table *table);

/* Begins a new row; cells are set in any order. */
void table_row(struct table *table);

/* A cell of the last row: what people read and, in JSON, `value` (its reference is taken; NULL:
 * the same text as a string). */
void table_set(struct table *table, uint32_t column, json_t *value, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Shorthands: a text; a whole number; bytes ("7.9GiB" for people, the number in JSON); a number
 * with `digits` behind the point. */
void table_text(struct table *table, uint32_t column, const char *text);
void table_count(struct table *table, uint32_t column, uint64_t value);
void table_bytes(struct table *table, uint32_t column, uint64_t bytes);
void table_real(struct table *table, uint32_t column, double value, int digits);

/* The array of rows; the caller's reference. NULL when memory was short. */
json_t *table_json(const struct table *table);

/* For people. ST_OK, ST_NO_MEMORY or ST_IO. */
int table_print(const struct table *table, FILE *out);

/* One JSON document, indented, with a newline; takes the reference, accepts NULL (ST_NO_MEMORY). */
int table_print_json(json_t *document, FILE *out);

#endif
