#include "base/digest.h"

#include <openssl/evp.h>

#include "base/assert.h"
#include "base/heap.h"

struct digest {
    EVP_MD_CTX *context;
    EVP_MD *algorithm; /* fetched once: the implicit fetch of every EVP_DigestInit is slow */
};

struct digest *digest_create(void)
{
    struct digest *digest = heap_calloc(1, sizeof *digest);
    if (digest == NULL) {
        return NULL;
    }
    digest->context = EVP_MD_CTX_new();
    digest->algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (digest->context == NULL || digest->algorithm == NULL ||
        EVP_DigestInit_ex2(digest->context, digest->algorithm, NULL) != 1) {
        digest_destroy(digest);
        return NULL;
    }
    return digest;
}

void digest_destroy(struct digest *digest)
{
    if (digest != NULL) {
        EVP_MD_CTX_free(digest->context);
        EVP_MD_free(digest->algorithm);
        heap_free(digest);
    }
}

/* Once a context is set up for SHA-256, none of these can fail: they allocate nothing. */
void digest_begin(struct digest *digest)
{
    int good = EVP_DigestInit_ex2(digest->context, NULL, NULL);
    KVEIK_ASSERT(good == 1);
}

void digest_add(struct digest *digest, const void *data, size_t bytes)
{
    int good = EVP_DigestUpdate(digest->context, data, bytes);
    KVEIK_ASSERT(good == 1);
}

void digest_end(struct digest *digest, uint8_t out[DIGEST_BYTES])
{
    unsigned length = 0;
    int good = EVP_DigestFinal_ex(digest->context, out, &length);
    KVEIK_ASSERT(good == 1 && length == DIGEST_BYTES);
}
