/*
 * The disk tier: parts in segment files, a catalogue of them in RocksDB.
 *
 *   DIR/LOCK             held by the daemon that uses the directory; its pid is in it
 *   DIR/STORE            format version, the store's id and secret, checksum
 *   DIR/catalogue/       RocksDB: kinds, and for every part where it lies and what it is
 *   DIR/segments/N.kv    payloads, written once from front to end; N never comes again
 *
 * A segment describes itself: a header (format version, store id and secret, N), then records. A
 * record is a header of whole pages that names its parts (kind, keys, lengths, checksums) and the
 * kinds that they are of, then the payloads. The catalogue can be lost and is rebuilt from them.
 *
 * The tier decides nothing. Its owner says what to write, to read, to forget, and which segment to
 * free; the tier packs parts into records, places them in its open segments and says where they
 * are. A part can be read when its write is done. It is durable when the epoch that its write named
 * is committed: then payload and catalogue entry are on stable storage, in this order. What was not
 * committed may be gone after a crash, but is never read wrongly: every payload is verified when it
 * comes back.
 *
 * All functions are the owner thread's (the loop's). Work is done on threads of the tier's own;
 * options.wake is called from them when disk_reap() has something.
 */
#ifndef KVEIK_STORAGE_DISK_DISK_H
#define KVEIK_STORAGE_DISK_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/queue.h"
#include "storage/disk/io.h"

struct log; /* base/log.h */

enum {
    DISK_KEY_BYTES = 32,
    DISK_KEYS_MAX = 256, /* grain keys of one part's block */
    DISK_ORIGIN_MAX = 64,
    DISK_BLOB_MAX = 4096, /* bytes of a description of a space, or of a form */
    DISK_SECRET_BYTES = 32,
    DISK_UNIT = 64, /* bytes: offsets of payloads count in these */
    DISK_SEGMENTS_MAX = 65535,
    DISK_FORMAT_VERSION = 1,
};

struct disk_options {
    const char *directory;
    uint64_t bytes_max;         /* segments together; at least four segments */
    uint32_t keep_free_percent; /* of the file system: segments_max shrinks to leave it */
    uint64_t segment_bytes;     /* multiple of 1 MiB, 4 MiB to 16 GiB */
    enum disk_io_kind io;
    uint32_t depth;             /* requests at the device at once */
    uint32_t jobs_max;          /* writes and reads in flight together */
    uint64_t write_bytes_per_s; /* cap on writes; 0: none */
    uint32_t sync_ms;           /* what was written is committed at least so often */
    uint64_t slow_ms;           /* a request older than this makes the tier slow: see disk_state */
    struct log *log;
    void (*wake)(void *arg);
    void *wake_arg;
};

/* A space and a stored form, described in words of the owner's own: the tier only keeps them. */
struct disk_kind {
    const uint8_t *space;
    uint32_t space_bytes;
    const uint8_t *form;
    uint32_t form_bytes;
};

struct disk_place {
    uint32_t segment; /* 0 .. DISK_SEGMENTS_MAX - 1; used again once freed */
    uint32_t offset;  /* of the payload in its file, in DISK_UNITs */
};

/* What is kept with a payload, so that it can be found again. Pointers are the owner's and valid
 * until the call returns. */
struct disk_part {
    uint32_t kind; /* from disk_kind_number() */
    const uint8_t *keys;
    uint32_t key_count; /* 1 .. DISK_KEYS_MAX */
    uint32_t grains;
    uint32_t tail_tokens;
    const uint8_t *parent; /* DISK_KEY_BYTES; NULL: not known, or the root */
    const uint8_t *origin; /* who pushed it */
    uint32_t origin_bytes; /* 0 .. DISK_ORIGIN_MAX */
    uint64_t pushed_s;     /* seconds since 1970 */
};

/* One write. Kept by the owner until reaped; the payload must not change until then. */
struct disk_write {
    /* set by the owner */
    const char *from;         /* the payload; NULL: it is moved from `source` */
    uint64_t room_bytes;      /* bytes at `from` that may be read: >= bytes. Where `from` is aligned
                                 to DISK_ALIGN and this to it, too, nothing is copied */
    struct disk_place source; /* when moved; verified against source_seal on the way */
    uint64_t source_seal;
    uint64_t bytes; /* of the payload */
    bool survivor;  /* goes beside other survivors: hot and cold parts lie apart */
    void *owner;

    /* set by the tier, valid once reaped */
    int status; /* ST_OK; ST_NO_SPACE: no free segment or a full file system; ST_IO; ST_CORRUPT: the
                   source is damaged; ST_UNAVAILABLE: the tier is down */
    struct disk_place place;
    uint64_t seal;          /* checksum, 48 bits */
    uint64_t charged_bytes; /* what the part takes in its segment, its share of the header too */
    uint32_t epoch;         /* durable once this is committed */

    struct queue link; /* the tier's own, as is what `work` points to */
    void *work;
};

/* One read. Kept by the owner until reaped. */
struct disk_read {
    struct disk_place place;
    uint64_t seal;
    uint64_t bytes;
    char *to;
    uint64_t room_bytes; /* bytes at `to` that may be overwritten: >= bytes; aligned as for writes:
                            nothing is copied */
    void *owner;

    int status; /* ST_OK; ST_IO; ST_CORRUPT: bytes and seal differ; ST_UNAVAILABLE */

    struct queue link;
    void *work;
};

enum disk_event_kind {
    DISK_WRITTEN,      /* u.write is the owner's again */
    DISK_READ,         /* u.read is the owner's again */
    DISK_COMMITTED,    /* u.epoch and all before it are durable */
    DISK_SEGMENT_LOST, /* u.segment: a commit or its file failed: nothing in it counts any more. The
                          owner forgets its parts and frees it with disk_free_segment() */
    DISK_STATE,        /* u.state */
};

struct disk_state {
    uint32_t segments_max; /* segments that there is room for now, at least 2 */
    bool readable;         /* false: requests fail or take longer than slow_ms; tried again */
    bool writable;
};

struct disk_event {
    enum disk_event_kind kind;
    union {
        struct disk_write *write;
        struct disk_read *read;
        uint32_t epoch;
        uint32_t segment;
        struct disk_state state;
    } u;
};

/* A part found at start; pointers are valid during the call. */
struct disk_entry {
    struct disk_part part;
    struct disk_kind kind;
    struct disk_place place;
    uint64_t seal;
    uint64_t bytes;
    uint64_t charged_bytes;
    uint32_t epoch; /* 0: durable */
};

/* Called by disk_open() for every part whose catalogue entry fits its segment, oldest segment
 * first. false: not wanted, its entry is dropped and counted. */
typedef bool (*disk_restore_cb)(void *ctx, const struct disk_entry *entry);

/* X(name, help) */
#define DISK_COUNTER_TABLE(X)                                                                      \
    X(written_parts, "parts written")                                                              \
    X(written_bytes, "payload bytes written for the owner")                                        \
    X(moved_bytes, "payload bytes written again, moved out of segments that were freed")           \
    X(device_bytes, "bytes that these writes sent to segment files, headers and padding too")      \
    X(read_parts, "parts read")                                                                    \
    X(read_bytes, "payload bytes read")                                                            \
    X(corrupt_parts, "parts whose bytes did not fit their checksum")                               \
    X(read_errors, "reads that failed")                                                            \
    X(write_errors, "writes that failed")                                                          \
    X(commits, "commits")                                                                          \
    X(commit_errors, "commits that failed")                                                        \
    X(segments_made, "segment files begun")                                                        \
    X(segments_freed, "segment files removed")                                                     \
    X(segments_lost, "segment files given up after an error")                                      \
    X(restored_parts, "parts found at start")                                                      \
    X(dropped_entries, "catalogue entries dropped at start: stale, unreadable or not wanted")      \
    X(rebuilt_parts, "parts found by reading segments, for want of a catalogue")

struct disk_counters {
#define X(name, help) uint64_t name;
    DISK_COUNTER_TABLE(X)
#undef X
};

struct disk_status {
    struct disk_counters counters;
    enum disk_io_kind io;
    char io_why[128]; /* why not io_uring, when it is threads and was not asked for */
    struct disk_state state;
    uint32_t segments;
    uint64_t segment_file_bytes;
    uint64_t catalogue_bytes; /* RocksDB's files */
    uint64_t file_system_free_bytes;
    uint32_t epoch; /* the open one */
    uint32_t committed_epoch;
    uint64_t start_ms; /* what disk_open() took */
    uint32_t in_flight;
    char last_error[160]; /* empty: none */
};

struct disk;

/* Locks the directory (made if need be), opens or makes the store, gives its parts to `restore`.
 * ST_OK; ST_BUSY: another process has it (error names its pid); ST_VERSION: another format, left as
 * it is; ST_CORRUPT: a STORE file that cannot be read and no segment to take it from; ST_IO;
 * ST_NO_MEMORY; ST_INVALID: options. A damaged or missing catalogue is moved aside and rebuilt. */
int disk_open(const struct disk_options *options, disk_restore_cb restore, void *ctx,
              struct disk **disk_out, struct error *error);

/* Commits what was written and closes. Jobs must have been reaped. Accepts NULL. */
void disk_close(struct disk *disk);

/* 32 secret bytes that stay with the store. */
const uint8_t *disk_secret(const struct disk *disk);

/* The number under which parts of this kind are written, the same for equal bytes; it is kept with
 * the next part that is written. ST_OK, ST_INVALID (too long), ST_LIMIT, ST_NO_MEMORY. */
int disk_kind_number(struct disk *disk, const struct disk_kind *kind, uint32_t *number_out);

/* ST_OK: the tier's until reaped. Otherwise nothing happened: ST_BUSY: jobs_max reached;
 * ST_UNAVAILABLE: down; ST_LIMIT: the part is too large for a segment; ST_INVALID: the place does
 * not lie in a segment; ST_NO_MEMORY. Small parts are gathered into one record with what comes soon
 * after. */
int disk_write(struct disk *disk, struct disk_write *write, const struct disk_part *part);
int disk_read(struct disk *disk, struct disk_read *read);

/* The part is not wanted any more: its entry goes with the next commit. */
void disk_forget(struct disk *disk, struct disk_place place);

/* Nothing in the segment is wanted, and no read out of it is in flight: entries and file go; the
 * number may come again in a later write. The tier may be writing to it still: writes that are
 * reaped after this call count as later ones. */
void disk_free_segment(struct disk *disk, uint32_t index);

/* Asks for a commit as soon as possible rather than after sync_ms. */
void disk_sync(struct disk *disk);

/* The next thing that happened; false: nothing. After wake(), until false. */
bool disk_reap(struct disk *disk, struct disk_event *event_out);

/* Call about every 100 ms: commits that are due, paced writes, free space, recovery. */
void disk_tick(struct disk *disk);

void disk_status(struct disk *disk, struct disk_status *status_out);

/* ---- offline: kveikd --check-store ----------------------------------------------------------- */

struct disk_check_report {
    uint64_t parts;
    uint64_t bytes;
    uint64_t damaged_parts; /* dropped from the catalogue */
    uint64_t stale_entries; /* dropped */
    uint64_t segments;
    uint64_t damaged_segments; /* header not readable: their entries are dropped */
    bool rebuilt;              /* the catalogue was lost and made again */
};

/* Reads every payload and verifies it; drops what is damaged. progress(ctx, bytes done, bytes in
 * all) is called now and then, may be NULL. Statuses as disk_open(). */
int disk_check(const struct disk_options *options, void (*progress)(void *, uint64_t, uint64_t),
               void *ctx, struct disk_check_report *report_out, struct error *error);

#endif
