#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *error, int status, const char *format, ...)
{
    if (error != NULL) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(error->text, sizeof error->text, format, args);
        va_end(args);
        error->status = status;
    }
    return status;
}

/* Appends ": <text>" behind the first `used` characters, cut to what fits. */
static void append_cause(struct error *error, int used, const char *text)
{
    if (used < 0) {
        return;
    }
    size_t at = (size_t)used;
    const char *const parts[] = {": ", text};
    for (size_t i = 0; i < 2; i++) {
        for (const char *c = parts[i]; *c != '\0' && at + 1 < sizeof error->text; c++) {
            error->text[at++] = *c;
        }
    }
    if (at < sizeof error->text) {
        error->text[at] = '\0';
    }
}

int error_wrap(struct error *error, const char *format, ...)
{
    if (error == NULL) {
        return ST_INTERNAL;
    }
    char inner[ERROR_TEXT_BYTES];
    (void)memcpy(inner, error->text, sizeof inner);
    inner[sizeof inner - 1] = '\0';
    va_list args;
    va_start(args, format);
    int used = vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    append_cause(error, used, inner);
    return error->status;
}

int error_errno(struct error *error, int status, int errnum, const char *format, ...)
{
    if (error != NULL) {
        va_list args;
        va_start(args, format);
        int used = vsnprintf(error->text, sizeof error->text, format, args);
        va_end(args);
        char cause[96] = "";
        /* the GNU strerror_r: thread-safe, may return a constant instead of filling the buffer */
        const char *text = strerror_r(errnum, cause, sizeof cause);
        append_cause(error, used, text);
        error->status = status;
    }
    return status;
}
