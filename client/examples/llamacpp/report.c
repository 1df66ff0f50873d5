#include "report.h"

#include <math.h>
#include <stdio.h>

enum { DIGEST_TEXT_BYTES = 2 * SERVE_DIGEST_BYTES + 1, SHORT_DIGEST = 12 };

static void digest_text(const struct served *served, char text[DIGEST_TEXT_BYTES])
{
    for (size_t i = 0; i < SERVE_DIGEST_BYTES; i++) {
        (void)snprintf(text + 2 * i, 3, "%02x", served->digest[i]);
    }
}

/* Ours have neither quotes nor control characters, but a daemon's might. */
static void print_text(const char *text)
{
    (void)putchar('"');
    for (; *text != '\0'; text++) {
        bool plain = *text >= ' ' && *text <= '~' && *text != '"' && *text != '\\';
        (void)putchar(plain ? *text : ' ');
    }
    (void)putchar('"');
}

static void prompt_json(uint32_t number, const struct prompt *prompt, const struct served *served,
                        bool checked)
{
    char digest[DIGEST_TEXT_BYTES];
    digest_text(served, digest);
    (void)printf("{\"prompt\": %u, \"tokens\": %u, \"found\": %u, \"bytes\": %llu, "
                 "\"first_token_ms\": %.3f, "
                 "\"lookup_ms\": %.3f, \"pull_ms\": %.3f, \"import_ms\": %.3f, "
                 "\"compute_ms\": %.3f, \"generate_ms\": %.3f, \"pushed\": %u, "
                 "\"logits\": \"%s\", \"generated\": [",
                 number, prompt->token_count, served->found.tokens,
                 (unsigned long long)served->found.bytes, served->first_token_ms,
                 served->found.lookup_ms, served->found.pull_ms, served->import_ms,
                 served->compute_ms, served->generate_ms, served->pushed, digest);
    for (uint32_t i = 0; i < served->generated; i++) {
        (void)printf("%s%u", i > 0 ? ", " : "", prompt->tokens[prompt->token_count + i]);
    }
    (void)printf("]");
    if (checked && isfinite(served->difference)) {
        (void)printf(", \"identical\": %s, \"difference\": %.9g", served->same ? "true" : "false",
                     served->difference);
    } else if (checked) {
        (void)printf(", \"identical\": false, \"difference\": null");
    }
    (void)printf(", \"cache\": ");
    print_text(served->found.text);
    (void)printf("}\n");
}

static void prompt_line(uint32_t number, const struct prompt *prompt, const struct served *served,
                        bool checked)
{
    char digest[DIGEST_TEXT_BYTES];
    digest_text(served, digest);
    (void)printf("prompt %3u: %5u tokens, %5u found, first token %8.1f ms (lookup %.1f, pull %.1f, "
                 "import %.1f, compute %.1f), %u generated, logits %.*s",
                 number, prompt->token_count, served->found.tokens, served->first_token_ms,
                 served->found.lookup_ms, served->found.pull_ms, served->import_ms,
                 served->compute_ms, served->generated, SHORT_DIGEST, digest);
    if (checked && served->same) {
        (void)printf(", identical");
    } else if (checked) {
        (void)printf(", DIFFERENT by up to %.3g", served->difference);
    }
    if (served->found.text[0] != '\0') {
        (void)printf(" [cache: %s]", served->found.text);
    }
    (void)putchar('\n');
}

void report_prompt(uint32_t number, const struct prompt *prompt, const struct served *served,
                   bool checked, bool json)
{
    (json ? prompt_json : prompt_line)(number, prompt, served, checked);
    (void)fflush(stdout); /* whoever reads from a pipe waits for it */
}

void report_failure(uint32_t number, const char *error, bool json)
{
    if (json) {
        (void)printf("{\"prompt\": %u, \"error\": ", number);
        print_text(error);
        (void)printf("}\n");
        (void)fflush(stdout);
    }
    (void)fprintf(stderr, "kveik-llama: prompt %u: %s\n", number, error);
}

void report_summary(const struct share_counts *counts, bool flushed, bool json)
{
    (void)printf(
        json ? "{\"pulled\": %llu, \"pushed\": %llu, \"held\": %llu, \"failed\": %llu, "
               "\"skipped\": %llu, \"late\": %llu, \"reconnects\": %llu, \"flushed\": %s}\n"
             : "blocks: %llu pulled, %llu pushed, %llu held before, %llu failed, "
               "%llu skipped; %llu requests late, %llu reconnects; all pushes over: %s\n",
        (unsigned long long)counts->pulled_blocks, (unsigned long long)counts->pushed_blocks,
        (unsigned long long)counts->held_blocks, (unsigned long long)counts->failed_blocks,
        (unsigned long long)counts->skipped_blocks, (unsigned long long)counts->late_requests,
        (unsigned long long)counts->reconnects, flushed ? "true" : "false");
}
