#include "proto/space.h"

#include <stddef.h>
#include <string.h>

#include "base/assert.h"
#include "base/digest.h"

_Static_assert((int)SPACE_ID_BYTES == (int)DIGEST_BYTES, "a space's id is a SHA-256");

uint32_t space_dtype_bytes(uint32_t dtype)
{
    static const uint8_t sizes[] = {
#define X(name, number, bytes) [number] = (bytes),
        SPACE_DTYPE_TABLE(X)
#undef X
    };
    return dtype < ARRAY_COUNT(sizes) ? sizes[dtype] : 0;
}

/* Names stand in logs and tables: no control characters. */
static int check_name(const char *field, const char name[SPACE_NAME_BYTES], struct error *error)
{
    size_t length = strnlen(name, SPACE_NAME_BYTES);
    if (length == SPACE_NAME_BYTES) {
        return error_set(error, ST_INVALID, "space: %s is longer than %d bytes", field,
                         SPACE_NAME_BYTES - 1);
    }
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c < 0x20 || c == 0x7f) {
            return error_set(error, ST_INVALID, "space: %s has a control character at byte %zu",
                             field, i);
        }
    }
    return ST_OK;
}

static int check_kinds(const struct space_group *group, uint32_t index, struct error *error)
{
    if (group->kind_count == 0 || group->kind_count > LAYOUT_KINDS_MAX) {
        return error_set(error, ST_INVALID, "space: group %u: kind_count %u, must be 1 to %d",
                         index, group->kind_count, LAYOUT_KINDS_MAX);
    }
    for (uint32_t kind = 0; kind < LAYOUT_KINDS_MAX; kind++) {
        uint32_t elements = group->kind_elements[kind];
        bool unused = group->opaque || kind >= group->kind_count;
        if (unused && elements != 0) {
            return error_set(error, ST_INVALID,
                             "space: group %u: kind %u has %u elements, must be 0%s", index, kind,
                             elements, group->opaque ? " in an opaque group" : "");
        }
        if (!unused && (elements == 0 || elements > LAYOUT_ELEMENTS_MAX)) {
            return error_set(error, ST_INVALID,
                             "space: group %u: kind %u has %u elements, must be 1 to %d", index,
                             kind, elements, LAYOUT_ELEMENTS_MAX);
        }
    }
    return ST_OK;
}

static int check_group(const struct space_group *group, uint32_t index, struct error *error)
{
    if (group->rule < GROUP_EVERY || group->rule > GROUP_STATE) {
        return error_set(error, ST_INVALID, "space: group %u: rule %u, must be 1 to 3", index,
                         group->rule);
    }
    if ((group->rule == GROUP_WINDOW) != (group->window_tokens != 0)) {
        return error_set(error, ST_INVALID,
                         "space: group %u: window_tokens %u; a window group needs them, others "
                         "have none",
                         index, group->window_tokens);
    }
    if (group->layer_count == 0 || group->layer_count > LAYOUT_LAYERS_MAX) {
        return error_set(error, ST_INVALID, "space: group %u: layer_count %u, must be 1 to %d",
                         index, group->layer_count, LAYOUT_LAYERS_MAX);
    }
    if (group->head_count == 0 || group->head_count > LAYOUT_HEADS_MAX) {
        return error_set(error, ST_INVALID, "space: group %u: head_count %u, must be 1 to %d",
                         index, group->head_count, LAYOUT_HEADS_MAX);
    }
    return check_kinds(group, index, error);
}

static int check_private(const struct space *space, bool opaque, struct error *error)
{
    if (space->fingerprint_bytes > SPACE_FINGERPRINT_MAX) {
        return error_set(error, ST_INVALID, "space: fingerprint of %u bytes, at most %d",
                         space->fingerprint_bytes, SPACE_FINGERPRINT_MAX);
    }
    if (opaque != (space->fingerprint_bytes != 0)) {
        return error_set(error, ST_INVALID, "space: %s",
                         opaque ? "an opaque group needs a fingerprint of its packing"
                                : "a fingerprint without an opaque group");
    }
    if (space->isolation_bytes > SPACE_FINGERPRINT_MAX) {
        return error_set(error, ST_INVALID, "space: isolation of %u bytes, at most %d",
                         space->isolation_bytes, SPACE_FINGERPRINT_MAX);
    }
    return ST_OK;
}

int space_check(const struct space *space, struct error *error)
{
    KVEIK_ASSERT(space != NULL);
    int status = check_name("model", space->model, error);
    if (status != ST_OK) {
        return status;
    }
    if (space->model[0] == '\0') {
        return error_set(error, ST_INVALID, "space: no model");
    }
    status = check_name("revision", space->revision, error);
    if (status != ST_OK) {
        return status;
    }
    if (space_dtype_bytes(space->dtype) == 0) {
        return error_set(error, ST_INVALID, "space: dtype %u is unknown", space->dtype);
    }
    if (space->group_count == 0 || space->group_count > SPACE_GROUPS_MAX) {
        return error_set(error, ST_INVALID, "space: %u groups, must be 1 to %d", space->group_count,
                         SPACE_GROUPS_MAX);
    }
    if (space->admission > SPACE_ADMIT_NEVER) {
        return error_set(error, ST_INVALID, "space: admission %u is unknown", space->admission);
    }
    bool opaque = false;
    for (uint32_t i = 0; i < space->group_count; i++) {
        status = check_group(&space->groups[i], i, error);
        if (status != ST_OK) {
            return status;
        }
        opaque = opaque || space->groups[i].opaque;
    }
    return check_private(space, opaque, error);
}

static void add_u32(struct digest *digest, uint32_t value)
{
    const uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
                              (uint8_t)(value >> 24)};
    digest_add(digest, bytes, sizeof bytes);
}

/* Every variable part stands behind its length, so that no two spaces encode alike. */
static void add_bytes(struct digest *digest, const void *data, size_t bytes)
{
    add_u32(digest, (uint32_t)bytes);
    digest_add(digest, data, bytes);
}

static void add_group(struct digest *digest, const struct space_group *group)
{
    add_u32(digest, group->rule);
    add_u32(digest, group->window_tokens);
    add_u32(digest, group->layer_count);
    add_u32(digest, group->head_count);
    add_u32(digest, group->opaque ? 1 : 0);
    add_u32(digest, group->kind_count);
    for (uint32_t kind = 0; kind < group->kind_count; kind++) {
        add_u32(digest, group->kind_elements[kind]);
    }
}

int space_id(const struct space *space, uint8_t id_out[SPACE_ID_BYTES])
{
    static const char domain[] = "kveik/space/1";
    KVEIK_ASSERT(space->group_count >= 1 && space->group_count <= SPACE_GROUPS_MAX);
    struct digest *digest = digest_create();
    if (digest == NULL) {
        return ST_NO_MEMORY;
    }
    digest_begin(digest);
    add_bytes(digest, domain, sizeof domain - 1);
    add_bytes(digest, space->model, strlen(space->model));
    add_bytes(digest, space->revision, strlen(space->revision));
    add_u32(digest, space->dtype);
    add_bytes(digest, space->rope_id, space->has_rope ? sizeof space->rope_id : 0);
    add_u32(digest, space->group_count);
    for (uint32_t i = 0; i < space->group_count; i++) {
        add_group(digest, &space->groups[i]);
    }
    add_bytes(digest, space->fingerprint, space->fingerprint_bytes);
    add_bytes(digest, space->isolation, space->isolation_bytes);
    digest_end(digest, id_out);
    digest_destroy(digest);
    return ST_OK;
}
