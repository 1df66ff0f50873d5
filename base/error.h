/*
 * An error with its cause in words. The function that first knows the cause formats the text;
 * callers above may put context in front of it; it is logged or sent once, at the edge.
 */
#ifndef KVEIK_BASE_ERROR_H
#define KVEIK_BASE_ERROR_H

#include "base/status.h"

enum { ERROR_TEXT_BYTES = 256 };

struct error {
    int status;                  /* enum status; ST_OK when nothing is wrong */
    char text[ERROR_TEXT_BYTES]; /* one line, no trailing full stop */
};

/* Formats the cause and returns `status`, so that `return error_set(...)` reads well.
 * `error` may be NULL. */
int error_set(struct error *error, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "context: " in front of the text that is there; returns the status that is there. */
int error_wrap(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* error_set() with ": <text of errno>" behind it. */
int error_errno(struct error *error, int status, int errnum, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
