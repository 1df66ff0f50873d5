/*
 * SHA-256 (OpenSSL's, which uses the processor's instructions), with one context reused: creating
 * one per digest costs more than the digest of a grain. One context per thread.
 */
#ifndef KVEIK_BASE_DIGEST_H
#define KVEIK_BASE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

enum { DIGEST_BYTES = 32 };

struct digest;

/* NULL when memory is short. */
struct digest *digest_create(void);

/* Accepts NULL. */
void digest_destroy(struct digest *digest);

void digest_begin(struct digest *digest);
void digest_add(struct digest *digest, const void *data, size_t bytes);
void digest_end(struct digest *digest, uint8_t out[DIGEST_BYTES]);

#endif
