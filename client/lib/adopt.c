/*
 * Adopting: private pages are replaced, where they are and with what they hold, by pages of a
 * sealed file that the daemon can map.
 *
 * An area is a stretch of private memory with one file for all of it, of which only adopted pages
 * are allocated: file offset = address - area.base, and base is a multiple of 2 MiB, so that huge
 * pages fit. Tensors that lie in one allocation are exported one by one and may share a page at
 * their borders: all of them then lie in the one file, and what is adopted already is left alone.
 *
 *   1. the range is checked against /proc/self/maps
 *   2. the pages' contents are copied into the file through a second mapping
 *   3. one mmap(MAP_FIXED) puts the file in the pages' place: at no moment is the range unmapped
 *
 * Between 2 and 3 nobody else may write there; kveik.h asks the caller for that.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/heap.h"
#include "client/lib/client.h"
#include "client/lib/maps.h"

#define ADOPTED_PATH "/memfd:" MEMFD_NAME_ADOPTED
#define MEMORY_PATH  "/memfd:" MEMFD_NAME_MEMORY

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool is_kveik(const struct map_segment *segment)
{
    return segment->shared &&
           (starts_with(segment->name, ADOPTED_PATH) || starts_with(segment->name, MEMORY_PATH));
}

/* Memory of a client of this process that is gone is as good as private: its file is open nowhere
 * here any more. */
static bool is_orphan(const struct map_segment *segment)
{
    int fd = maps_find_descriptor(segment->device, segment->inode);
    if (fd < 0) {
        return true;
    }
    (void)close(fd);
    return false;
}

/* NULL when the segment's pages may be replaced; else why not. */
static const char *refusal(const struct map_segment *segment)
{
    if (!segment->readable || !segment->writable) {
        return "is not readable and writable";
    }
    if (segment->executable) {
        return "is executable";
    }
    if (is_kveik(segment)) {
        return is_orphan(segment) ? NULL : "is exported in another way already";
    }
    if (segment->shared) {
        return "is shared memory";
    }
    if (segment->inode != 0 || segment->name[0] == '/') {
        return "is mapped from a file";
    }
    if (starts_with(segment->name, "[stack")) {
        return "is a stack";
    }
    if (starts_with(segment->name, "[heap]")) {
        return "is the heap, where other threads may write to neighbours at any time";
    }
    if (segment->name[0] == '[' && !starts_with(segment->name, "[anon")) {
        return "is the system's";
    }
    return NULL;
}

/* ---- areas ----------------------------------------------------------------------------------- */

static bool is_adopted(const struct area *area, uintptr_t address, uintptr_t *until_out)
{
    uintptr_t next = area->end;
    queue_foreach (item, &area->ranges) {
        const struct adopted_range *range = CONTAINER_OF(item, struct adopted_range, link);
        if (range->begin <= address && address < range->end) {
            *until_out = range->end;
            return true;
        }
        if (range->begin > address && range->begin < next) {
            next = range->begin;
        }
    }
    *until_out = next;
    return false;
}

static struct area *area_covering(const struct kveik_client *client, uintptr_t begin, uintptr_t end)
{
    queue_foreach (item, &client->areas) {
        struct area *area = CONTAINER_OF(item, struct area, link);
        if (area->begin <= begin && end <= area->end) {
            return area;
        }
    }
    return NULL;
}

/* Whether pages of [begin, end) are adopted in some area: such an area does not cover the range. */
static bool touches_adopted(const struct kveik_client *client, uintptr_t begin, uintptr_t end)
{
    queue_foreach (item, &client->areas) {
        const struct area *area = CONTAINER_OF(item, struct area, link);
        queue_foreach (inner, &area->ranges) {
            const struct adopted_range *range = CONTAINER_OF(inner, struct adopted_range, link);
            if (range->begin < end && begin < range->end) {
                return true;
            }
        }
    }
    return false;
}

static void area_destroy(struct area *area)
{
    struct queue *item = NULL;
    while ((item = queue_pop_front(&area->ranges)) != NULL) {
        heap_free(CONTAINER_OF(item, struct adopted_range, link));
    }
    queue_remove(&area->link);
    (void)close(area->memfd);
    heap_free(area);
}

void areas_finish(struct kveik_client *client)
{
    queue_foreach_safe (item, &client->areas) {
        area_destroy(CONTAINER_OF(item, struct area, link));
    }
}

/* The stretch of replaceable memory around [begin, end): the whole of it becomes one area. */
static int find_stretch(uintptr_t begin, uintptr_t end, uintptr_t *begin_out, uintptr_t *end_out,
                        struct error *error)
{
    struct map_segment *segments = NULL;
    size_t count = 0;
    int status = maps_read(0, UINTPTR_MAX, &segments, &count, error);
    if (status != ST_OK) {
        return status;
    }
    uintptr_t from = 0;
    uintptr_t to = 0;
    status = error_set(error, ST_UNSUPPORTED, "adopt: the memory is not mapped");
    for (size_t i = 0; i < count && to < end; i++) {
        const char *why = refusal(&segments[i]);
        bool inside = segments[i].begin < end && segments[i].end > begin;
        if (inside && why != NULL) {
            status = error_set(error, ST_UNSUPPORTED, "adopt: the memory %s (%.64s)", why,
                               segments[i].name);
            break;
        }
        if (why != NULL) {
            from = 0;
            to = 0;
        } else if (segments[i].begin != to) {
            from = segments[i].begin;
            to = segments[i].end;
        } else {
            to = segments[i].end;
        }
        if (from != 0 && from <= begin && end <= to) {
            status = ST_OK;
        } else if (from > begin) {
            break; /* a gap within the range */
        }
    }
    /* what follows without a gap belongs to the stretch too */
    for (size_t i = 0; status == ST_OK && i < count; i++) {
        if (segments[i].begin == to && refusal(&segments[i]) == NULL) {
            to = segments[i].end;
        }
    }
    heap_free(segments);
    if (status == ST_OK) {
        *begin_out = from;
        *end_out = to;
    }
    return status;
}

static struct area *area_create(struct kveik_client *client, uintptr_t begin, uintptr_t end,
                                struct error *error)
{
    struct area *area = heap_calloc(1, sizeof *area);
    if (area == NULL) {
        (void)error_set(error, ST_NO_MEMORY, "adopt: out of memory");
        return NULL;
    }
    area->begin = begin;
    area->end = end;
    area->base = begin / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    queue_init(&area->ranges);
    queue_init(&area->link);
    area->memfd = memfd_make(MEMFD_NAME_ADOPTED, end - area->base, error);
    if (area->memfd < 0) {
        heap_free(area);
        return NULL;
    }
    queue_push_back(&client->areas, &area->link);
    return area;
}

/* ---- replacing ------------------------------------------------------------------------------- */

/* Whole pages: beside the range they may hold a neighbour's bytes, and under the address sanitizer
 * its red zones, which are copied without being asked about. */
#ifdef KVEIK_SANITIZED
__attribute__((no_sanitize("address"))) static void copy_pages(uint8_t *to, const uint8_t *from,
                                                               size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        to[i] = from[i];
        __asm__ volatile("" ::: "memory"); /* stays a loop: memcpy() is intercepted */
    }
}
#else
static void copy_pages(uint8_t *to, const uint8_t *from, size_t bytes)
{
    (void)memcpy(to, from, bytes);
}
#endif

/* Puts file pages with the same contents in the place of [begin, end). */
static int replace(const struct area *area, uintptr_t begin, uintptr_t end, bool small_pages,
                   struct error *error)
{
    size_t bytes = end - begin;
    uint64_t offset = begin - area->base;
    uint8_t *place = (uint8_t *)begin; /* NOLINT(performance-no-int-to-ptr) */
    uint8_t *copy = memfd_map(area->memfd, offset, bytes, small_pages, error);
    if (copy == NULL) {
        return error->status;
    }
    int status = memfd_populate(copy, bytes, error);
    if (status == ST_OK) {
        copy_pages(copy, place, bytes);
        errno = ENOMEM;
        void *mapped = fault_fires(FAULT_MMAP)
                           ? MAP_FAILED
                           : mmap(place, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                                  area->memfd, (off_t)offset);
        if (mapped == MAP_FAILED) {
            status = error_errno(error, ST_NO_MEMORY, errno, "adopt: map %zu bytes", bytes);
        }
    }
    (void)munmap(copy, bytes);
    if (status == ST_OK) {
        if (!small_pages) {
            (void)madvise(place, bytes, MADV_HUGEPAGE);
        }
        struct error ignored = {0};
        (void)memfd_populate(place, bytes, &ignored); /* no page faults later; a wish */
    }
    return status;
}

static int adopt_range(struct area *area, uintptr_t begin, uintptr_t end, bool small_pages,
                       struct error *error)
{
    struct adopted_range *range = heap_alloc(sizeof *range);
    if (range == NULL) {
        return error_set(error, ST_NO_MEMORY, "adopt: out of memory");
    }
    range->begin = begin;
    range->end = end;
    int status = replace(area, begin, end, small_pages, error);
    if (status != ST_OK) {
        heap_free(range);
        return status;
    }
    queue_push_back(&area->ranges, &range->link);
    return ST_OK;
}

/* True when the pages of [begin, end) are still the file's: somebody may have unmapped them and
 * mapped other memory there. */
static bool is_still_ours(const struct area *area, uintptr_t begin, uintptr_t end)
{
    struct map_segment *segments = NULL;
    size_t count = 0;
    struct error ignored = {0};
    if (maps_read(begin, end, &segments, &count, &ignored) != ST_OK) {
        return true; /* nothing is known against it; the probe has the last word */
    }
    bool ours = maps_cover(segments, count, begin, end);
    for (size_t i = 0; ours && i < count; i++) {
        ours = segments[i].shared && starts_with(segments[i].name, ADOPTED_PATH) &&
               segments[i].file_offset == segments[i].begin - area->base;
    }
    heap_free(segments);
    return ours;
}

static void prune(struct area *area)
{
    queue_foreach_safe (item, &area->ranges) {
        struct adopted_range *range = CONTAINER_OF(item, struct adopted_range, link);
        if (!is_still_ours(area, range->begin, range->end)) {
            queue_remove(&range->link);
            heap_free(range);
        }
    }
}

/* What is not adopted yet must be of the right kind. */
static int check_rest(const struct area *area, uintptr_t begin, uintptr_t end, struct error *error)
{
    struct map_segment *segments = NULL;
    size_t count = 0;
    int status = maps_read(begin, end, &segments, &count, error);
    if (status != ST_OK) {
        return status;
    }
    if (!maps_cover(segments, count, begin, end)) {
        status = error_set(error, ST_UNSUPPORTED,
                           "adopt: the memory is not all mapped, readable and writable");
    }
    for (size_t i = 0; status == ST_OK && i < count; i++) {
        uintptr_t until = 0;
        uintptr_t at = segments[i].begin > begin ? segments[i].begin : begin;
        const char *why = is_adopted(area, at, &until) ? NULL : refusal(&segments[i]);
        if (why != NULL) {
            status = error_set(error, ST_UNSUPPORTED, "adopt: the memory %s (%.64s)", why,
                               segments[i].name);
        }
    }
    heap_free(segments);
    return status;
}

/* The area that is to hold the range, a new one if need be. NULL: *error. */
static struct area *area_for(struct kveik_client *client, uintptr_t begin, uintptr_t end,
                             struct error *error)
{
    struct area *area = area_covering(client, begin, end);
    if (area != NULL) {
        prune(area);
        return check_rest(area, begin, end, error) == ST_OK ? area : NULL;
    }
    if (touches_adopted(client, begin, end)) {
        (void)error_set(error, ST_UNSUPPORTED,
                        "adopt: the range reaches beyond memory that was adopted before");
        return NULL;
    }
    uintptr_t from = 0;
    uintptr_t to = 0;
    if (find_stretch(begin, end, &from, &to, error) != ST_OK) {
        return NULL;
    }
    return area_create(client, from, to, error);
}

int adopt(struct kveik_client *client, const struct adoption *wanted, int *memfd_out,
          uint64_t *offset_out, struct error *error)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t address = (uintptr_t)wanted->address;
    uintptr_t begin = address / page * page;
    uintptr_t end = (address + wanted->bytes + page - 1) / page * page;
    struct area *area = area_for(client, begin, end, error);
    if (area == NULL) {
        return error->status;
    }
    int status = ST_OK;
    for (uintptr_t at = begin; status == ST_OK && at < end;) {
        uintptr_t until = 0;
        bool adopted = is_adopted(area, at, &until);
        until = until < end ? until : end;
        if (!adopted) {
            status = adopt_range(area, at, until, wanted->small_pages, error);
        }
        at = until;
    }
    if (status != ST_OK) {
        if (queue_empty(&area->ranges)) {
            area_destroy(area);
        }
        return status;
    }
    *memfd_out = area->memfd;
    *offset_out = address - area->base;
    return ST_OK;
}
