/* What is printed: a line a prompt, and a summary; for people or as JSON, one object a line. */
#ifndef KVEIK_EXAMPLES_REPORT_H
#define KVEIK_EXAMPLES_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "serve.h"

void report_prompt(uint32_t number, const struct prompt *prompt, const struct served *served,
                   bool checked, bool json);
void report_failure(uint32_t number, const char *error, bool json);
void report_summary(const struct share_counts *counts, bool flushed, bool json);

#endif
