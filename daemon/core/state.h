/* What the files of this folder do for each other; the records are in records.h. */
#ifndef KVEIK_CORE_STATE_H
#define KVEIK_CORE_STATE_H

#include "daemon/core/records.h"

/* ---- list.c ---------------------------------------------------------------------------------- */

void list_init(struct list *list);
int list_add(struct core *core, struct list *list, uint32_t item);
void list_free(struct core *core, struct list *list);
bool list_has(const struct core *core, const struct list *list, uint32_t item);

/* The last item; the list is not empty. */
uint32_t list_last(const struct core *core, const struct list *list);

/* Takes one `item` out; the order of the others may change. False when there is none. */
bool list_remove(struct core *core, struct list *list, uint32_t item);

/* Calls visit(core, item) for every item, the last added first: what a request used is let go from
 * its end, so that a prefix's beginning is the last to be evicted. */
void list_visit(struct core *core, const struct list *list,
                void (*visit)(struct core *core, uint32_t item));

/* ---- part.c: blocks, parts, the LRU lists ------------------------------------------------------
 */

uint32_t core_hash(const struct core *core, uint32_t space, const uint8_t *key);

/* A block with these keys in the index; NONE when a limit is reached. */
uint32_t block_create(struct core *core, uint32_t space, const uint8_t *keys, uint32_t key_count,
                      uint32_t grains, uint32_t tail_tokens);
void block_drop(struct core *core, uint32_t number);

/* The key of the grain before the block's first; NULL: not known, or the root. Kept only with a
 * disk, which is told. */
void block_parent_set(struct core *core, uint32_t number, const uint8_t *parent);

/* A FILLING part in `slot`, with one reference; NONE when a limit is reached. */
uint32_t part_create(struct core *core, uint32_t block, uint32_t shape, uint32_t slot,
                     uint32_t origin);

/* Removes a part without references from everything, its block with it when it was the last. */
void part_drop(struct core *core, uint32_t number);

/* A STORED part without references: what was found at start. */
uint32_t part_restore(struct core *core, uint32_t block, uint32_t shape, uint32_t origin);

/* An UNVERIFIED part in a claimed slot, without references: what was found in memory at start. A
 * STORED one becomes it. The seal's memory was had. */
uint32_t part_restore_memory(struct core *core, uint32_t block, uint32_t shape, uint32_t origin,
                             uint32_t slot);
void part_found_in_memory(struct core *core, uint32_t number, uint32_t slot);

/* Takes a slot for a STORED part, which is LOADING then; gives a part's slot back. */
void part_slot_take(struct core *core, uint32_t number, uint32_t slot);
void part_slot_give(struct core *core, uint32_t number);

/* Refers to the cover's parts until parts_let_go() to `count`: what is needed must not be evicted
 * for what comes behind it. Notes them in scratch.hits; false, and nothing held, without memory. */
bool parts_hold(struct core *core, const struct cover *cover);

/* The last first: a prefix's beginning is the most recently used. */
void parts_let_go(struct core *core, uint32_t count);

void part_ready(struct core *core, uint32_t number);
void part_ref(struct core *core, uint32_t number);
void part_unref(struct core *core, uint32_t number);
void part_pin(struct core *core, uint32_t number, bool on);

/* ---- lru.c ------------------------------------------------------------------------------------
 */

int lru_init(struct core *core);

/* The most recently used from now on. */
void lru_enter(struct core *core, uint32_t number);
void lru_leave(struct core *core, uint32_t number);

/* Back to where it was, behind `after`, as if it had not been away: it keeps its tick. The newest
 * when that place cannot be told any more. */
void lru_return(struct core *core, uint32_t number, uint32_t after, uint64_t tick);

/* Used just now; parts that are referred to or pinned are in no list: nothing happens. */
void part_touch(struct core *core, uint32_t number);

/* The least recently used part; NONE when there is none to evict. */
uint32_t lru_oldest(struct core *core);
uint32_t lru_oldest_of_space(const struct core *core, uint32_t space);
uint32_t lru_oldest_of_tenant(const struct core *core, uint32_t tenant);
uint32_t lru_oldest_of_class(const struct core *core, uint32_t class);

/* Parts on disk only, oldest first; part->tick stays the time of the last use. */
void stored_enter(struct core *core, uint32_t number);
void stored_leave(struct core *core, uint32_t number);

/* ---- evict.c ----------------------------------------------------------------------------------
 */

/* A slot for a part of `shape`, evicting what must go. ST_OK, ST_NO_SPACE, ST_QUOTA. */
int space_make(struct core *core, uint32_t shape, uint32_t *slot_out);

/* Room for one more part, block and run of keys, evicting what must go. */
bool records_make(struct core *core, uint32_t key_count);

/* Towards the low watermark when above the high one. */
void evict_to_watermark(struct core *core);

/* Out of the CPU tier: STORED if it is on disk, else gone. The counter counts parts that went. */
void evict(struct core *core, uint32_t victim, uint64_t *counter);

/* Gives an empty slab back. */
void give_slab_back(struct core *core, uint32_t class, uint32_t slab);

/* Gives the slabs of sizes that no shape uses back, so that other sizes can have their class. */
void evict_unused_classes(struct core *core);

/* ---- find.c -----------------------------------------------------------------------------------
 */

/* The grains that end with the one named by `key`. */
struct asked {
    const uint8_t *key;
    uint32_t hash;
    uint32_t hint; /* 1 + number of a key that may be it, looked at first; 0: none */
    uint32_t space;
    uint32_t grains;      /* so many, the last one `key` */
    uint32_t tail_tokens; /* valid tokens of the last one */
    bool filling;         /* parts still being filled count too */
};

/* As find_cover(), for one guess: the key of this number, if it is a key at all, in a block whose
 * first part does it alone. False proves nothing. */
bool find_guess(const struct core *core, const struct asked *asked, const struct core_want *want,
                uint32_t number, struct cover *cover_out);

/* Parts that together hold what is asked for, for the wanted group and ranges. True and *cover_out
 * when they do. */
bool find_cover(const struct core *core, const struct asked *asked, const struct core_want *want,
                struct cover *cover_out);

/* The group exists and the ranges lie in it, not empty. */
bool want_valid(const struct core *core, uint32_t space, const struct core_want *want);

/* Counts from a client: sizes of grains and tail in bounds, and tokens that fit 32 bits. */
bool keys_valid(uint32_t key_count, uint32_t key_grains, uint32_t tail_tokens);

/* The block of as many grains and keys as `like` whose last grain is `key`, or NONE. */
uint32_t find_block(const struct core *core, const struct asked *asked, const struct block *like);

/* The way from a hash to a part, one cache miss each, to be gone ahead of time: bucket, key (its
 * number, or NONE: perhaps in the overflow bucket), block (its number, or NONE), part. Nothing
 * depends on what they find. */
void find_prefetch_bucket(const struct core *core, uint32_t hash);
uint32_t find_prefetch_key(const struct core *core, uint32_t hash);
uint32_t find_prefetch_overflow(const struct core *core, uint32_t hash);
uint32_t find_prefetch_block(const struct core *core, uint32_t key_number);
void find_prefetch_part(const struct core *core, uint32_t block);

/* Calls visit(core, part) for every part of every block that has the key. */
void find_each(struct core *core, const struct asked *asked,
               void (*visit)(struct core *core, uint32_t part));

/* `inner` is not empty and lies in `outer`; sums that wrap are outside. */
bool ranges_inside(const struct core_ranges *inner, const struct core_ranges *outer);

/* ---- disk.c: where parts lie on disk -----------------------------------------------------------
 */

/* Why these limits cannot be; NULL: they can. */
const char *disk_limits_refusal(const struct core_disk_limits *limits);

int disk_init(struct core *core);
void disk_finish(struct core *core);

/* The part lies at `place` from now on; it had no place. */
void disk_attach(struct core *core, uint32_t number, struct core_place place, uint64_t seal,
                 uint32_t epoch);

/* The part has no place on disk any more; with `forget` the owner is told to drop its entry. */
void disk_detach(struct core *core, uint32_t number, bool forget);

/* The part's bytes on disk cannot be had: detached, and given up unless it is in memory. */
void disk_part_lost(struct core *core, uint32_t number);

/* Frees the segment when it is emptied and nothing reads it. */
void segment_try_free(struct core *core, uint32_t number);

void step_segment_lost(struct core *core, const struct core_event *event);
void step_disk_state(struct core *core, const struct core_event *event);

/* ---- restore.c: what is found at start ---------------------------------------------------------
 */

void step_restore(struct core *core, const struct core_event *event);
void step_restore_slab(struct core *core, const struct core_event *event);
void step_restore_end(struct core *core, const struct core_event *event);

/* ---- store.c: writing back --------------------------------------------------------------------
 */

/* A part was pushed, or used: it is queued for the disk when its space's admission says so. */
void store_pushed(struct core *core, uint32_t number);
void store_used(struct core *core, uint32_t number);

/* Queues whatever the admission says; false: the queue is full. */
bool store_queue(struct core *core, uint32_t number);

/* Begins what waits and may begin. Called at the end of every step. */
void store_pump(struct core *core);

/* A move out of a segment, or, when `source` is NONE, a write from memory. False: none free. */
bool store_begin(struct core *core, uint32_t number, uint32_t source, bool evict_after);

void step_store_done(struct core *core, const struct core_event *event);

/* ---- load.c: reading back ---------------------------------------------------------------------
 */

/* Begins to read a STORED part, or to verify an UNVERIFIED one. False: no space, or too many at
 * once. What the caller needs must be held: room is made by eviction. */
bool load_begin(struct core *core, uint32_t number);

/* Reads what a lookup found and leased on disk, from the beginning, as far as the limits go. */
void load_ahead(struct core *core, const uint32_t *parts, uint32_t count);

void step_load_done(struct core *core, const struct core_event *event);

/* ---- verify.c: what is in memory since a restart -----------------------------------------------
 */

/* Someone wants the part: being verified, it counts as used when that ends. */
void load_wanted(struct core *core, uint32_t number);

/* Begins to verify an UNVERIFIED part; it keeps its place in the LRU list. False: too many. */
bool verify_begin(struct core *core, uint32_t number);
void verify_done(struct core *core, const struct load *load, int status);
void step_verify(struct core *core, const struct core_event *event);

/* ---- reclaim.c: freeing segments --------------------------------------------------------------
 */

/* Goes on with the victim, or chooses one when segments run short. Part of store_pump(). */
void reclaim_pump(struct core *core);

/* ---- persist.c --------------------------------------------------------------------------------
 */

void step_persist(struct core *core, const struct core_event *event);
void step_committed(struct core *core, const struct core_event *event);

/* Answers requests whose parts are durable, or never will be. */
void persist_check(struct core *core);
void persist_end(struct core *core, uint32_t number, int status, const char *text);

/* ---- steps, one file each ---------------------------------------------------------------------
 */

void step_session_open(struct core *core, const struct core_event *event);
void step_session_close(struct core *core, const struct core_event *event);
void step_space(struct core *core, const struct core_event *event);
void step_shape(struct core *core, const struct core_event *event);
void step_push(struct core *core, const struct core_event *event);
void step_lookup(struct core *core, const struct core_event *event);
void step_pull(struct core *core, const struct core_event *event);
void step_copy_done(struct core *core, const struct core_event *event);
void step_cancel(struct core *core, const struct core_event *event);
void step_release(struct core *core, const struct core_event *event);
void step_pin(struct core *core, const struct core_event *event);
void step_slab_failed(struct core *core, const struct core_event *event);
void step_tenant_quota(struct core *core, const struct core_event *event);
void step_shape_use(struct core *core, const struct core_event *event);
void step_shape_drop(struct core *core, const struct core_event *event);
void step_space_drop(struct core *core, const struct core_event *event);

/* ---- shared between them ----------------------------------------------------------------------
 */

/* A new action at the end of this step's list; zeroed but for its kind. */
struct core_action *action_add(struct core *core, enum core_action_kind kind);

/* ACTION_REPLY with status and text (constant, may be NULL). */
struct core_action *reply_add(struct core *core, uint32_t session, uint32_t request, int status,
                              const char *text);

struct core_copy *copy_add(struct core *core); /* NULL: out of memory */
int statuses_reserve(struct core *core, uint32_t count);
int8_t *statuses_at(struct core *core, uint32_t index);

/* Registers a request that copies; it holds the parts in `request->parts`. */
struct request *request_begin(struct core *core, const struct core_event *event, bool push);
void request_end(struct core *core, uint32_t number);

/* After the last request of a closing session. */
void session_finish(struct core *core, uint32_t number);

/* A lease on parts for the session's instance. ST_OK, ST_QUOTA, ST_LIMIT. */
int lease_create(struct core *core, uint32_t instance, const uint32_t *parts, uint32_t count,
                 uint64_t *id_out);
int lease_release(struct core *core, uint32_t instance, uint64_t id);
bool lease_known(const struct core *core, uint32_t instance, uint64_t id);
void lease_drop_all(struct core *core, uint32_t instance);

uint32_t origin_take(struct core *core, const uint8_t *id, uint32_t bytes, uint32_t tenant);
void origin_give(struct core *core, uint32_t number);

/* The tenant's record, usable from now on. */
struct tenant *tenant_use(struct core *core, uint32_t number);

void space_give_unused(struct core *core, uint32_t number);
void shape_give_unused(struct core *core, uint32_t number);

/* The space (the shape) exists, and the session registered it. */
bool session_has_space(const struct core *core, uint32_t session, uint32_t space);
bool session_has_shape(const struct core *core, uint32_t session, uint32_t shape);

/* Notes a handle of a session's. ST_OK, ST_LIMIT, ST_NO_MEMORY. */
int handle_add(struct core *core, uint32_t session, uint32_t handle);

/* Gives one of a session's handles back. */
void handle_give(struct core *core, uint32_t handle);

#endif
