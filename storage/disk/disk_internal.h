/*
 * The tier's parts for each other. All of it is the owner thread's but for what is marked: a field
 * of a task is the worker's while it is under way, a record's and a read's is an I/O thread's.
 *
 *   disk.c            open, close, reap, tick, status
 *   disk_start.c      the catalogue at start: opened, made again, scanned
 *   disk_segments.c   the table of segments and the streams' open ones
 *   disk_write.c      writes: gathered, handed out
 *   disk_record.c     … as records to the device
 *   disk_read.c       reads, and moves' first half
 *   disk_commit.c     epochs
 *   disk_state.c      room, health, pace
 */
#ifndef KVEIK_STORAGE_DISK_DISK_INTERNAL_H
#define KVEIK_STORAGE_DISK_DISK_INTERNAL_H

#include "base/assert.h"
#include "base/log.h"
#include "storage/disk/bounce.h"
#include "storage/disk/catalogue.h"
#include "storage/disk/disk.h"
#include "storage/disk/format.h"
#include "storage/disk/health.h"
#include "storage/disk/kinds.h"
#include "storage/disk/segment.h"
#include "storage/disk/worker.h"

#define DISK_MAGIC UINT32_C(0x6b64736b)

enum {
    RECORD_PAYLOAD_BYTES = 4 * 1024 * 1024, /* a record gathers at most so much */
    WRITES_AT_ONCE = 4,                     /* records in flight from which on gathering begins */
    COMMIT_ENTRIES = 4096,                  /* a batch of so many does not wait for sync_ms */
    COMMIT_ENTRIES_MAX = 65536, /* with so many waiting for the one before, no write is taken */
    SPACE_INTERVAL_MS = 1000,
    SPACE_HOLD_MS = 30000, /* how long a full file system is believed in */
    OPEN_FILES_MAX = 4096,
};

/* A segment of the table. It lives while it has a file; the tier lets go of it when it is in no
 * stream and the owner knows of no part in it. */
struct segment {
    uint32_t index;
    uint64_t number; /* N of its file */
    int fd;          /* -1: not open now */
    uint64_t used;   /* bytes from the front that are given out */
    uint64_t file_bytes;
    uint32_t writes; /* placed in it and not yet handed out */
    uint32_t pins;   /* users of fd, and reads not yet handed out */
    bool attached;   /* a stream's open or next one */
    bool told;       /* the owner was told of a part in it, and has not freed it since */
    bool dirty;      /* in disk->dirty */
    bool trim;       /* cut the file to `used` at the next commit */
    bool lost;
    bool lost_told;
    bool removing;           /* in disk->removing or the commit's */
    struct queue fd_link;    /* in disk->open_files, least recently used first */
    struct queue dirty_link; /* in disk->dirty */
    struct queue link;       /* in disk->removing */
};

/* Making a segment file, on the worker `filer`. */
struct make_task {
    struct task task;
    struct disk *disk;
    struct segment *segment;
    int fd;
    int status;
    struct error error;
};

struct stream {
    struct queue pending; /* write_work.link */
    uint64_t pending_bytes;
    uint32_t pending_count;
    struct segment *open;
    struct segment *next; /* made ahead */
    bool making;
    struct make_task make;
};

/* What the tier keeps of one write, from disk_write() until it is handed out. */
struct write_work {
    struct queue link; /* in a stream's pending */
    struct disk_write *write;
    struct stream *stream;
    struct segment *segment; /* that it was placed in; NULL: not yet */
    const char *from;
    uint64_t room_bytes;
    struct bounce *moved; /* the payload of a move */
    struct format_part part;
    uint8_t memory[]; /* keys, parent, origin */
};

/* Several writes on their way as one I/O job. `before` fills seals and the header on its thread. */
struct record {
    struct disk_io_job job;
    struct disk *disk;
    struct segment *segment;
    struct bounce *bounce; /* header, then the packed payloads */
    uint64_t front_bytes;  /* of the record that lie in it */
    struct format_record head;
    struct write_work *works[FORMAT_PARTS_MAX];
};

/* A read, or the first half of a move. */
struct read_work {
    struct disk_io_job job;
    struct queue link; /* in disk->reads */
    struct disk *disk;
    struct segment *segment;
    struct disk_read *read; /* one of these two */
    struct write_work *move;
    struct bounce *bounce; /* NULL: straight to `to` */
    char *to;
    uint64_t offset; /* of the payload */
    uint64_t bytes;
    uint64_t seal;
};

struct commit_sync {
    struct segment *segment;
    int fd;
    uint64_t number;
    uint64_t used;
    bool trim;
    bool failed;
};

/* One commit under way, on the worker `committer`. */
struct commit {
    struct task task;
    struct disk *disk;
    struct catalogue_batch *batch;
    struct commit_sync *syncs;
    uint32_t sync_count;
    struct queue removals; /* segments whose files go once the batch is written */
    uint32_t epoch;
    bool synced; /* a second try does not sync again */
    bool running;
    bool failed; /* to be tried again */
    int status;
    struct error error;
    uint64_t catalogue_bytes;
};

/* Looking at the file system, on the worker `filer`. */
struct space_task {
    struct task task;
    struct disk *disk;
    bool running;
    int status;
    uint64_t free_bytes; /* for us */
    uint64_t all_bytes;
};

enum { STREAM_FRESH, STREAM_SURVIVORS, STREAM_COUNT };

_Static_assert((int)FORMAT_KIND_BYTES_MAX <= (int)FORMAT_PART_BYTES_MAX, "one scratch for both");

struct disk {
    uint32_t magic;
    struct disk_options options;
    char *directory;
    char *catalogue_path;
    int directory_fd;
    int lock_fd;
    struct segment_files files;
    struct disk_io *io;
    struct worker *filer;
    struct worker *committer;
    struct catalogue *catalogue;
    struct kinds kinds;

    struct segment **segments; /* by index, DISK_SEGMENTS_MAX */
    uint32_t segment_count;
    uint64_t number_next;
    struct queue open_files;
    uint32_t open_file_count;
    uint32_t open_files_max;
    struct stream streams[STREAM_COUNT];

    struct bounce_pool record_pool; /* three, so that none waits for another's */
    struct bounce_pool read_pool;
    struct bounce_pool move_pool;
    struct queue reads;   /* waiting to be submitted */
    struct queue written; /* disk_write.link: done, to be handed out */
    struct queue read_done;
    uint32_t slots; /* jobs in flight at the engine */
    uint32_t records_in_flight;
    uint32_t reads_in_flight;
    uint32_t jobs; /* the owner's: submitted and not handed out */
    uint64_t sequence;

    struct catalogue_batch *batch; /* gathers for the open epoch */
    struct queue dirty;
    uint32_t dirty_count;
    struct queue removing;
    uint64_t batch_began_ms;
    uint32_t epoch;
    uint32_t committed_epoch;
    uint32_t committed_told;
    bool sync_wanted;
    struct commit commit;

    struct health read_health;
    struct health write_health;
    struct health commit_health;
    struct disk_state state;
    struct disk_state state_told;
    struct space_task space;
    uint64_t space_due_ms;
    uint64_t free_bytes; /* of the file system, when it was last looked at */
    uint32_t space_cap;  /* segments, while space_cap_until_ms is not over */
    uint64_t space_cap_until_ms;
    int64_t pace_tokens; /* bytes that may be written now */
    uint64_t pace_ns;

    uint32_t lost_untold;
    struct disk_counters counters;
    uint64_t catalogue_bytes;
    uint64_t start_ms;
    char io_why[128];
    char last_error[160];
    struct log_limit log_limit;
    uint8_t scratch[FORMAT_PART_BYTES_MAX]; /* for a value on its way to a batch */
};

/* ---- disk_segments.c ------------------------------------------------------------------------- */

/* A new entry of the table without a file. NULL: no index or no memory. */
struct segment *segment_add(struct disk *disk, uint64_t number);
void segment_forget(struct disk *disk, struct segment *segment);      /* closes and frees */
struct segment *segment_get(const struct disk *disk, uint32_t index); /* NULL: no such */
/* Its file; nobody may use it now. */
void segment_close(struct disk *disk, struct segment *segment);
/* Has it open; ST_OK, ST_IO. Others that nobody uses may be closed for it. */
int segment_ready(struct disk *disk, struct segment *segment);
void segment_detach(struct disk *disk, struct segment *segment);
void segment_dirty(struct disk *disk, struct segment *segment);
/* Lets it go if nothing holds it. */
void segment_release(struct disk *disk, struct segment *segment);
void segment_lose(struct disk *disk, struct segment *segment);

/* The segment for a record of `bytes`: ST_OK; ST_PENDING: one is being made; ST_NO_SPACE; ST_IO. */
int stream_segment(struct disk *disk, struct stream *stream, uint64_t bytes,
                   struct segment **segment_out);
void stream_made(struct disk *disk, struct make_task *make);
/* Makes the next one ahead of need. */
void stream_look_ahead(struct disk *disk, struct stream *stream);

/* ---- disk_write.c, disk_record.c, disk_read.c ------------------------------------------------ */

void work_pend(struct write_work *work);
/* Done, well or not: to be handed out. */
void work_finish(struct disk *disk, struct write_work *work, int status);
/* What is handed out counts from here on. */
struct disk_write *write_hand_out(struct disk *disk);
void stream_fail(struct disk *disk, struct stream *stream, int status);
void writes_pump(struct disk *disk);
/* One record off the stream to the device. ST_OK; ST_PENDING: not now; else the stream's failure.
 */
int record_send(struct disk *disk, struct stream *stream);
void record_done(struct disk *disk, struct record *record);
/* Whether a part of so many bytes fits any record. */
bool record_can_hold(const struct disk *disk, const struct disk_write *write,
                     const struct disk_part *part);

int move_begin(struct disk *disk, struct write_work *write);
void reads_pump(struct disk *disk);
void read_finished(struct disk *disk, struct read_work *work);
struct disk_read *read_hand_out(struct disk *disk);

/* Tells a record's jobs from a read's. */
int record_before(struct disk_io_job *job);

/* ---- disk_commit.c --------------------------------------------------------------------------- */

void commit_init(struct disk *disk);
/* Something was put into the batch. */
void commit_touch(struct disk *disk);
void commit_pump(struct disk *disk);
void commit_done(struct disk *disk);
/* Begins one whatever the time. False: there is nothing, or no memory. */
bool commit_begin(struct disk *disk);
/* The one that failed, once more. */
void commit_again(struct disk *disk);
bool commit_wanted(const struct disk *disk);

/* ---- disk_state.c ---------------------------------------------------------------------------- */

void state_init(struct disk *disk);
void state_update(struct disk *disk);
void space_done(struct disk *disk);
void space_pump(struct disk *disk);
int space_look(struct disk *disk); /* at once, at start */
void space_exhausted(struct disk *disk);
bool pace_allows(struct disk *disk);
void pace_take(struct disk *disk, uint64_t bytes);
void disk_failed(struct disk *disk, const char *what, int errnum);

/* ---- disk_start.c ---------------------------------------------------------------------------- */

/* Directory, lock, STORE; what disk_open() and disk_check() share. */
int disk_make(const struct disk_options *options, struct disk **disk_out, struct error *error);
void disk_unmake(struct disk *disk);

/* What is met at start, beside the counters of struct disk. */
struct start {
    disk_restore_cb restore;
    void *ctx;
    bool rebuilt;
    uint64_t damaged_segments;
    uint64_t stale_entries;
};

int disk_start(struct disk *disk, struct start *start, struct error *error);

#endif
