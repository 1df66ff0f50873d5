/*
 * The negative control: kveik-llama with one bit wrong. It is the same program, linked with --wrap,
 * so that the example has no hook for it. KVEIK_TEST_DAMAGE says where the bit flips: in each block
 * that was "pull"ed, before the engine takes it, or in each that is exported to be "push"ed.
 */
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "share_state.h"

// the linker's names
// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl*,readability-identifier-naming)
void __real_share_fetch(struct share *share, const uint32_t *tokens, uint32_t count,
                        uint32_t *pages_out, struct share_found *found_out);
void __wrap_share_fetch(struct share *share, const uint32_t *tokens, uint32_t count,
                        uint32_t *pages_out, struct share_found *found_out);
bool __real_engine_export(struct engine *engine, struct kv_blob *blob, uint8_t *page,
                          uint32_t first);
bool __wrap_engine_export(struct engine *engine, struct kv_blob *blob, uint8_t *page,
                          uint32_t first);

static bool wanted(const char *where)
{
    const char *text = secure_getenv("KVEIK_TEST_DAMAGE");
    return text != NULL && strcmp(text, where) == 0;
}

/* A low bit of the exponent of the first element of layer 0's V: no outlier, only wrong. */
static void damage(const struct kv_blob *blob, uint8_t *page)
{
    size_t top = kv_blob_element_bytes(blob->type) - 1;
    page[blob->parts[0].planes[1].offset + top] ^= 0x04;
}

void __wrap_share_fetch(struct share *share, const uint32_t *tokens, uint32_t count,
                        uint32_t *pages_out, struct share_found *found_out)
{
    __real_share_fetch(share, tokens, count, pages_out, found_out);
    for (uint32_t i = 0; wanted("pull") && i < found_out->tokens / share->blob->tokens; i++) {
        damage(share->blob, share_page(share, pages_out[i]));
    }
}

bool __wrap_engine_export(struct engine *engine, struct kv_blob *blob, uint8_t *page,
                          uint32_t first)
{
    bool good = __real_engine_export(engine, blob, page, first);
    if (good && wanted("push")) {
        damage(blob, page);
    }
    return good;
}
// NOLINTEND(bugprone-reserved-identifier,cert-dcl*,readability-identifier-naming)
