#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/escape.h"
#include "base/options_internal.h"

int option_find(const struct options_table *table, const char *name)
{
    for (uint32_t i = 0; i < table->count; i++) {
        if (strcmp(table->specs[i].name, name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

/* How many characters must be inserted, removed or changed to turn `a` into `b` (Levenshtein),
 * kept as one row of the table. `b` is shorter than OPTION_NAME_BYTES. */
static size_t distance(const char *a, const char *b)
{
    size_t row[OPTION_NAME_BYTES];
    size_t b_length = strlen(b);
    for (size_t j = 0; j <= b_length; j++) {
        row[j] = j;
    }
    for (size_t i = 0; a[i] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < b_length; j++) {
            size_t changed = diagonal + (tolower((unsigned char)a[i]) != b[j] ? 1 : 0);
            diagonal = row[j + 1];
            size_t shifted = (row[j] < row[j + 1] ? row[j] : row[j + 1]) + 1;
            row[j + 1] = changed < shifted ? changed : shifted;
        }
    }
    return row[b_length];
}

const char *option_nearest(const struct options_table *table, const char *name)
{
    size_t length = strlen(name);
    if (length >= OPTION_NAME_BYTES) {
        return NULL;
    }
    const char *nearest = NULL;
    size_t least = 2 + length / 4; /* beyond it, a suggestion confuses more than it helps */
    for (uint32_t i = 0; i < table->count; i++) {
        size_t found = distance(name, table->specs[i].name);
        if (found <= least && (nearest == NULL || found < least)) {
            least = found;
            nearest = table->specs[i].name;
        }
    }
    return nearest;
}

void option_environment_name(const struct options_table *table, const char *name,
                             char out[OPTION_NAME_BYTES])
{
    int length = snprintf(out, OPTION_NAME_BYTES, "%s%s", table->env_prefix, name);
    KVEIK_ASSERT(length > 0 && length < OPTION_NAME_BYTES);
    for (char *c = out; *c != '\0'; c++) {
        if (*c == '-') {
            *c = '_';
        } else if (*c >= 'a' && *c <= 'z') {
            *c = (char)(*c - 'a' + 'A');
        }
    }
}

void option_show(const char *text, char out[OPTION_SHOWN_BYTES])
{
    bool cut = false;
    out[0] = '"';
    size_t room = OPTION_SHOWN_BYTES - sizeof "\"...\"" + 1;
    size_t used = 1 + escape_text(text, strlen(text), out + 1, room, &cut);
    (void)snprintf(out + used, OPTION_SHOWN_BYTES - used, "%s\"", cut ? "..." : "");
}
