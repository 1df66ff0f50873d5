/*
 * Makes foreign bytes harmless before they reach a log, a terminal or JSON. Valid UTF-8 stays
 * readable; control characters, those that turn the direction of text, and bytes that are not
 * UTF-8 are written as escapes. The results are one line of valid UTF-8.
 */
#ifndef KVEIK_BASE_ESCAPE_H
#define KVEIK_BASE_ESCAPE_H

#include <stdbool.h>
#include <stddef.h>

/* For terminals and text logs: \n \t \r \\ \x1b \u202e; broken bytes as \xff. Writes at most
 * out_bytes - 1 characters and a NUL, never part of an escape. Returns the characters written;
 * *cut_out (may be NULL) tells whether something was left off. out_bytes > 0. */
size_t escape_text(const char *text, size_t text_bytes, char *out, size_t out_bytes, bool *cut_out);

/* As escape_text(), as the inside of a JSON string; broken bytes become \ufffd. */
size_t escape_json(const char *text, size_t text_bytes, char *out, size_t out_bytes, bool *cut_out);

#endif
