/* The public header, alone, first, as C and as C++; and the sizes and places that programs were
 * built against. A change here is a change of the ABI: fields are only ever added at the end. */
#include "kveik/kveik.h"

#ifdef __cplusplus
#define ABI_ASSERT(condition) static_assert(condition, #condition)
#else
#define ABI_ASSERT(condition) _Static_assert(condition, #condition)
#endif

#if defined(__x86_64__) || defined(__aarch64__)
ABI_ASSERT(sizeof(struct kveik_error) == 260);
ABI_ASSERT(sizeof(struct kveik_options) == 64);
ABI_ASSERT(sizeof(struct kveik_info) == 192);
ABI_ASSERT(sizeof(struct kveik_group) == 40);
ABI_ASSERT(sizeof(struct kveik_space) == 104);
ABI_ASSERT(sizeof(struct kveik_memory_options) == 32);
ABI_ASSERT(sizeof(struct kveik_plane) == 48);
ABI_ASSERT(sizeof(struct kveik_layout) == 80);
ABI_ASSERT(sizeof(struct kveik_extra) == 24);
ABI_ASSERT(sizeof(struct kveik_push_run) == 64);
ABI_ASSERT(sizeof(struct kveik_push) == 24);
ABI_ASSERT(sizeof(struct kveik_want) == 20);
ABI_ASSERT(sizeof(struct kveik_lookup) == 64);
ABI_ASSERT(sizeof(struct kveik_pull_run) == 48);
ABI_ASSERT(sizeof(struct kveik_pull) == 40);
ABI_ASSERT(sizeof(struct kveik_origin) == 72);
ABI_ASSERT(offsetof(struct kveik_completion, text) + 256 <= sizeof(struct kveik_completion));
ABI_ASSERT(offsetof(struct kveik_completion, statuses) == 48);
ABI_ASSERT(offsetof(struct kveik_completion, origins) == 96);
#endif

/* The initialisers must work in both languages. */
int main(void)
{
    struct kveik_options options = KVEIK_OPTIONS_INIT;
    struct kveik_info info = KVEIK_INFO_INIT;
    struct kveik_space space = KVEIK_SPACE_INIT;
    struct kveik_memory_options memory = KVEIK_MEMORY_OPTIONS_INIT;
    struct kveik_layout layout = KVEIK_LAYOUT_INIT;
    struct kveik_push push = KVEIK_PUSH_INIT;
    struct kveik_lookup lookup = KVEIK_LOOKUP_INIT;
    struct kveik_pull pull = KVEIK_PULL_INIT;
    struct kveik_completion completion = KVEIK_COMPLETION_INIT;
    return options.size > 0 && info.size > 0 && space.size > 0 && memory.size > 0 &&
                   layout.size > 0 && push.size > 0 && lookup.size > 0 && pull.size > 0 &&
                   completion.size > 0 && kveik_version()[0] != '\0'
               ? 0
               : 1;
}
