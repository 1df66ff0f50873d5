#include "storage/disk/catalogue.h"

#include <string.h>

#include <rocksdb/c.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/heap.h"

#define CATALOGUE_MAGIC UINT32_C(0x6b636174)

enum {
    WRITE_BUFFER_BYTES = 8 * 1024 * 1024,
    WRITE_BUFFERS = 2,
    CACHE_BYTES = 4 * 1024 * 1024,
    LOG_FILES = 2,
    WAL_BYTES = 64 * 1024 * 1024,
    MANIFEST_BYTES = 4 * 1024 * 1024,
    OPEN_FILES = 128,
    BACKGROUND_JOBS = 2, /* one flush, one compaction */
    READ_AHEAD_BYTES = 2 * 1024 * 1024,
    LEVEL_HEADER = 5,
    /* damage in the middle of the log is reported, not skipped: then segments tell what there is */
    RECOVER_TORN_TAIL = 0,
    KEY_BYTES_MAX = 13,
    RANGE_END_BYTES = 9,
};

struct catalogue {
    uint32_t magic;
    char *path;
    rocksdb_options_t *options;
    rocksdb_writeoptions_t *write_options;
    rocksdb_t *db;
};

struct catalogue_batch {
    rocksdb_writebatch_t *writes;
};

/* ---- keys ------------------------------------------------------------------------------------ */

static void put_big(uint8_t *at, uint64_t value, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    }
}

static uint64_t get_big(const uint8_t *at, uint32_t bytes)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < bytes; i++) {
        value = (value << 8) | at[i];
    }
    return value;
}

static size_t key_of_kind(uint8_t *key, uint32_t kind)
{
    key[0] = CATALOGUE_KINDS;
    put_big(key + 1, kind, 4);
    return 5;
}

static size_t key_of_part(uint8_t *key, uint64_t number, uint32_t offset)
{
    key[0] = CATALOGUE_PARTS;
    put_big(key + 1, number, 8);
    put_big(key + 9, offset, 4);
    return KEY_BYTES_MAX;
}

static size_t key_of_segment(uint8_t *key, enum catalogue_prefix prefix, uint64_t number)
{
    key[0] = (uint8_t)prefix;
    put_big(key + 1, number, 8);
    return RANGE_END_BYTES;
}

static void item_of_key(const uint8_t *key, size_t bytes, struct catalogue_item *item)
{
    if (key[0] == CATALOGUE_KINDS && bytes == 5) {
        item->kind = (uint32_t)get_big(key + 1, 4);
        item->number = 1;
    } else if (key[0] == CATALOGUE_PARTS && bytes == KEY_BYTES_MAX) {
        item->number = get_big(key + 1, 8);
        item->offset = (uint32_t)get_big(key + 9, 4);
    } else if (key[0] == CATALOGUE_SEGMENTS && bytes == RANGE_END_BYTES) {
        item->number = get_big(key + 1, 8);
    }
}

/* ---- errors ---------------------------------------------------------------------------------- */

/* RocksDB tells its errors apart in words only. What is not clearly the device's fault is taken for
 * damage: then the catalogue is moved aside and made again, which is always right. */
static int status_of(const char *text)
{
    static const char *const device[] = {"Permission denied", "Read-only file system",
                                         "Too many open",     "Cannot allocate memory",
                                         "While lock file",   "lock hold",
                                         "Not a directory",   "Structure needs cleaning"};
    if (strstr(text, "No space left") != NULL || strstr(text, "quota exceeded") != NULL) {
        return ST_NO_SPACE;
    }
    for (size_t i = 0; i < ARRAY_COUNT(device); i++) {
        if (strstr(text, device[i]) != NULL) {
            return ST_IO;
        }
    }
    return ST_CORRUPT;
}

/* Takes the library's text. */
static int take_error(char *text, const char *doing, struct error *error)
{
    int status = status_of(text);
    (void)error_set(error, status, "catalogue: %s: %s", doing, text);
    rocksdb_free(text);
    return status;
}

/* ---- open and close -------------------------------------------------------------------------- */

/* No recovery of its own behind our back: after a failed write the library would go on with a log
 * that it must not touch any more, and Debian's build asserts that. We open it anew. */
static void no_resume(rocksdb_options_t *options)
{
    char *text = NULL;
    rocksdb_options_t *base = rocksdb_options_create_copy(options);
    rocksdb_get_options_from_string(base, "max_bgerror_resume_count=0", options, &text);
    KVEIK_ASSERT(text == NULL);
    rocksdb_options_destroy(base);
}

static rocksdb_options_t *make_options(void)
{
    rocksdb_options_t *options = rocksdb_options_create();
    no_resume(options);
    rocksdb_options_set_create_if_missing(options, 1);
    rocksdb_options_set_paranoid_checks(options, 1);
    rocksdb_options_set_compression(options, rocksdb_no_compression); /* keys are random */
    rocksdb_options_set_write_buffer_size(options, WRITE_BUFFER_BYTES);
    rocksdb_options_set_max_write_buffer_number(options, WRITE_BUFFERS);
    rocksdb_options_set_max_total_wal_size(options, WAL_BYTES);
    rocksdb_options_set_max_background_jobs(options, BACKGROUND_JOBS);
    rocksdb_options_set_max_open_files(options, OPEN_FILES);
    rocksdb_options_set_max_file_opening_threads(options, 1);
    rocksdb_options_set_wal_recovery_mode(options, RECOVER_TORN_TAIL);
    rocksdb_options_set_max_manifest_file_size(options, MANIFEST_BYTES);
    /* its own log fails with the disk that it lies on, and writing there once more is asserted
     * against: nothing but its header is written. What goes wrong comes back as an error anyway */
    rocksdb_options_set_info_log_level(options, LEVEL_HEADER);
    rocksdb_options_set_max_log_file_size(options, 0);
    rocksdb_options_set_keep_log_file_num(options, LOG_FILES);
    rocksdb_options_set_stats_dump_period_sec(options, 0);
    rocksdb_options_set_stats_persist_period_sec(options, 0);
    rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();
    rocksdb_cache_t *cache = rocksdb_cache_create_lru(CACHE_BYTES);
    rocksdb_block_based_options_set_block_cache(table, cache);
    rocksdb_options_set_block_based_table_factory(options, table);
    rocksdb_cache_destroy(cache); /* the table factory keeps its own reference */
    rocksdb_block_based_options_destroy(table);
    return options;
}

int catalogue_reopen(struct catalogue *catalogue, struct error *error)
{
    KVEIK_CHECK_OBJ(catalogue, CATALOGUE_MAGIC);
    if (catalogue->db != NULL) {
        rocksdb_close(catalogue->db);
        catalogue->db = NULL;
    }
    if (fault_fires(FAULT_CATALOGUE)) {
        return error_set(error, ST_IO, "catalogue: cannot be opened: planted fault");
    }
    char *text = NULL;
    catalogue->db = rocksdb_open(catalogue->options, catalogue->path, &text);
    if (text != NULL) {
        catalogue->db = NULL;
        return take_error(text, "cannot be opened", error);
    }
    return ST_OK;
}

int catalogue_open(const char *path, struct catalogue **catalogue_out, struct error *error)
{
    struct catalogue *catalogue = heap_calloc(1, sizeof *catalogue);
    char *path_copy = heap_strdup(path);
    if (catalogue == NULL || path_copy == NULL) {
        heap_free(catalogue);
        heap_free(path_copy);
        return error_set(error, ST_NO_MEMORY, "catalogue: no memory");
    }
    catalogue->magic = CATALOGUE_MAGIC;
    catalogue->path = path_copy;
    catalogue->options = make_options();
    catalogue->write_options = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(catalogue->write_options, 1);
    int status = catalogue_reopen(catalogue, error);
    if (status != ST_OK) {
        catalogue_close(catalogue);
        return status;
    }
    *catalogue_out = catalogue;
    return ST_OK;
}

void catalogue_close(struct catalogue *catalogue)
{
    if (catalogue == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(catalogue, CATALOGUE_MAGIC);
    if (catalogue->db != NULL) {
        rocksdb_close(catalogue->db);
    }
    rocksdb_writeoptions_destroy(catalogue->write_options);
    rocksdb_options_destroy(catalogue->options);
    catalogue->magic = 0;
    heap_free(catalogue->path);
    heap_free(catalogue);
}

int catalogue_write(struct catalogue *catalogue, struct catalogue_batch *batch, struct error *error)
{
    KVEIK_CHECK_OBJ(catalogue, CATALOGUE_MAGIC);
    if (catalogue->db == NULL) {
        return error_set(error, ST_UNAVAILABLE, "catalogue: is not open");
    }
    if (fault_fires(FAULT_CATALOGUE)) {
        return error_set(error, ST_IO, "catalogue: cannot be written: planted fault");
    }
    char *text = NULL;
    rocksdb_write(catalogue->db, catalogue->write_options, batch->writes, &text);
    return text == NULL ? ST_OK : take_error(text, "cannot be written", error);
}

uint64_t catalogue_bytes(const struct catalogue *catalogue)
{
    static const char *const parts[] = {"rocksdb.total-sst-files-size",
                                        "rocksdb.cur-size-all-mem-tables"};
    uint64_t sum = 0;
    for (size_t i = 0; catalogue->db != NULL && i < ARRAY_COUNT(parts); i++) {
        uint64_t bytes = 0;
        if (rocksdb_property_int(catalogue->db, parts[i], &bytes) == 0) {
            sum += bytes;
        }
    }
    return sum;
}

/* ---- scans ----------------------------------------------------------------------------------- */

static int scan_items(rocksdb_iterator_t *items, enum catalogue_prefix prefix, catalogue_cb each,
                      void *ctx)
{
    const char first = (char)prefix;
    int status = ST_OK;
    rocksdb_iter_seek(items, &first, 1);
    while (status == ST_OK && rocksdb_iter_valid(items) != 0) {
        size_t key_bytes = 0;
        struct catalogue_item item = {0};
        const char *key = rocksdb_iter_key(items, &key_bytes);
        if (key_bytes == 0 || key[0] != first) {
            break;
        }
        item.value = (const uint8_t *)rocksdb_iter_value(items, &item.value_bytes);
        item_of_key((const uint8_t *)key, key_bytes, &item);
        status = each(ctx, &item);
        rocksdb_iter_next(items);
    }
    return status;
}

int catalogue_scan(struct catalogue *catalogue, enum catalogue_prefix prefix, catalogue_cb each,
                   void *ctx, struct error *error)
{
    KVEIK_CHECK_OBJ(catalogue, CATALOGUE_MAGIC);
    if (catalogue->db == NULL) {
        return error_set(error, ST_UNAVAILABLE, "catalogue: is not open");
    }
    if (fault_fires(FAULT_CATALOGUE)) {
        return error_set(error, ST_CORRUPT, "catalogue: cannot be read: planted fault");
    }
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(options, 1);
    rocksdb_readoptions_set_fill_cache(options, 0);
    rocksdb_readoptions_set_readahead_size(options, READ_AHEAD_BYTES);
    rocksdb_iterator_t *items = rocksdb_create_iterator(catalogue->db, options);
    int status = scan_items(items, prefix, each, ctx);
    char *text = NULL;
    rocksdb_iter_get_error(items, &text);
    if (text != NULL) {
        int failed = take_error(text, "cannot be read", error);
        status = status == ST_OK ? failed : status;
    } else if (status != ST_OK) {
        (void)error_set(error, status, "catalogue: %s", status_text(status));
    }
    rocksdb_iter_destroy(items);
    rocksdb_readoptions_destroy(options);
    return status;
}

/* ---- batches --------------------------------------------------------------------------------- */

struct catalogue_batch *catalogue_batch_create(void)
{
    struct catalogue_batch *batch = heap_calloc(1, sizeof *batch);
    if (batch != NULL) {
        batch->writes = rocksdb_writebatch_create();
    }
    return batch;
}

void catalogue_batch_destroy(struct catalogue_batch *batch)
{
    if (batch != NULL) {
        rocksdb_writebatch_destroy(batch->writes);
        heap_free(batch);
    }
}

void catalogue_batch_clear(struct catalogue_batch *batch)
{
    rocksdb_writebatch_clear(batch->writes);
}

uint32_t catalogue_batch_count(const struct catalogue_batch *batch)
{
    return (uint32_t)rocksdb_writebatch_count(batch->writes);
}

static void put(struct catalogue_batch *batch, const uint8_t *key, size_t key_bytes,
                const void *value, size_t bytes)
{
    rocksdb_writebatch_put(batch->writes, (const char *)key, key_bytes, value, bytes);
}

void catalogue_put_kind(struct catalogue_batch *batch, uint32_t kind, const void *value,
                        size_t bytes)
{
    uint8_t key[KEY_BYTES_MAX];
    put(batch, key, key_of_kind(key, kind), value, bytes);
}

void catalogue_put_mark(struct catalogue_batch *batch, const void *value, size_t bytes)
{
    const uint8_t key = CATALOGUE_MARK;
    put(batch, &key, 1, value, bytes);
}

void catalogue_put_part(struct catalogue_batch *batch, uint64_t number, uint32_t offset,
                        const void *value, size_t bytes)
{
    uint8_t key[KEY_BYTES_MAX];
    put(batch, key, key_of_part(key, number, offset), value, bytes);
}

void catalogue_put_segment(struct catalogue_batch *batch, uint64_t number, const void *value,
                           size_t bytes)
{
    uint8_t key[KEY_BYTES_MAX];
    put(batch, key, key_of_segment(key, CATALOGUE_SEGMENTS, number), value, bytes);
}

void catalogue_drop_kind(struct catalogue_batch *batch, uint32_t kind)
{
    uint8_t key[KEY_BYTES_MAX];
    rocksdb_writebatch_delete(batch->writes, (const char *)key, key_of_kind(key, kind));
}

void catalogue_drop_part(struct catalogue_batch *batch, uint64_t number, uint32_t offset)
{
    uint8_t key[KEY_BYTES_MAX];
    rocksdb_writebatch_delete(batch->writes, (const char *)key, key_of_part(key, number, offset));
}

void catalogue_drop_segment(struct catalogue_batch *batch, uint64_t number)
{
    uint8_t from[KEY_BYTES_MAX];
    uint8_t to[KEY_BYTES_MAX];
    size_t bytes = key_of_segment(from, CATALOGUE_PARTS, number);
    (void)key_of_segment(to, CATALOGUE_PARTS, number + 1);
    rocksdb_writebatch_delete_range(batch->writes, (const char *)from, bytes, (const char *)to,
                                    bytes);
    bytes = key_of_segment(from, CATALOGUE_SEGMENTS, number);
    rocksdb_writebatch_delete(batch->writes, (const char *)from, bytes);
}
