#include "share.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "share_state.h"

enum {
    GRAIN = KVEIK_GRAIN_TOKENS,
    BACKOFF = 8, /* deadlines: a daemon that does not answer costs a ninth of the time at most */
};

static double now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* ---- pages ----------------------------------------------------------------------------------- */

uint8_t *share_page(const struct share *share, uint32_t page)
{
    return share->pages + page * share->page_stride;
}

bool share_take_page(struct share *share, uint32_t *page_out)
{
    for (uint32_t i = 0; i < share->options.page_count; i++) {
        uint32_t page = (share->next_page + i) % share->options.page_count;
        if (share->states[page] == PAGE_FREE) {
            share->states[page] = PAGE_HELD;
            share->next_page = page + 1;
            *page_out = page;
            return true;
        }
    }
    return false;
}

void share_give_back(struct share *share, uint32_t page)
{
    share->states[page] = PAGE_FREE;
}

static void move_all(struct share *share, enum page_state from, enum page_state to)
{
    for (uint32_t page = 0; page < share->options.page_count; page++) {
        if (share->states[page] == from) {
            share->states[page] = to;
        }
    }
}

static uint32_t pages_in(const struct share *share, enum page_state state, uint32_t *pages_out)
{
    uint32_t count = 0;
    for (uint32_t page = 0; page < share->options.page_count; page++) {
        if (share->states[page] == state) {
            pages_out[count++] = page;
        }
    }
    return count;
}

/* ---- what completes -------------------------------------------------------------------------- */

/* After this, a copy may still be under way: only a quiesce tells. */
static enum page_state state_after(int status)
{
    return status == KVEIK_E_STUCK ? PAGE_STUCK : PAGE_FREE;
}

static void push_is_over(struct share *share, const struct kveik_completion *done)
{
    /* a push's user pointer is its page's state */
    enum page_state *state = done->user;
    *state = state_after(done->status);
    bool pushed = done->status == KVEIK_OK && done->status_count > 0;
    bool held = pushed;
    for (uint32_t i = 0; i < done->status_count; i++) { /* one a run */
        pushed = pushed && (done->statuses[i] == KVEIK_OK || done->statuses[i] == KVEIK_HELD);
        held = held && done->statuses[i] == KVEIK_HELD;
    }
    share->counts.pushed_blocks += pushed && !held;
    share->counts.held_blocks += held;
    share->counts.failed_blocks += !pushed;
}

static void quiesce_is_over(struct share *share, int status)
{
    share->quiesced = share->quiesced && status == KVEIK_OK;
    share->quiescing--;
    if (share->quiescing == 0) {
        move_all(share, PAGE_QUIESCING, share->quiesced ? PAGE_FREE : PAGE_STUCK);
    }
}

static void settle(struct share *share, const struct kveik_completion *done)
{
    if (done->status != KVEIK_E_STUCK) {
        share->ask_again = 0; /* it answers, or it is another one */
    }
    switch (done->kind) {
    case KVEIK_OP_PUSH:
        push_is_over(share, done);
        break;
    case KVEIK_OP_LOOKUP: /* those that come here were late */
        share->late--;
        if (done->lease != 0) {
            (void)kveik_submit_release(share->client, done->lease, NULL, NULL, NULL);
        }
        break;
    case KVEIK_OP_PULL:
        share->late--;
        move_all(share, PAGE_PULLING, state_after(done->status));
        break;
    case KVEIK_OP_QUIESCE:
        quiesce_is_over(share, done->status);
        break;
    default: /* a release */
        break;
    }
}

/* Asks the daemon to say when stuck pages are quiet. */
static void quiesce(struct share *share)
{
    uint32_t *stuck = calloc(share->options.page_count, sizeof *stuck);
    uint32_t count = stuck != NULL ? pages_in(share, PAGE_STUCK, stuck) : 0;
    if (count > 0) {
        share->quiesced = true;
    }
    for (uint32_t i = 0; count > 0 && i < share->group_count; i++) {
        int status = kveik_submit_quiesce(share->client, share->groups[i].layout, stuck, count,
                                          NULL, NULL, NULL);
        share->quiescing += status == KVEIK_OK;
        share->quiesced = share->quiesced && status == KVEIK_OK;
    }
    if (share->quiescing > 0) {
        move_all(share, PAGE_STUCK, PAGE_QUIESCING);
    }
    free(stuck);
}

void share_poll(struct share *share)
{
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    while (kveik_poll(share->client, &done) == KVEIK_OK) {
        settle(share, &done);
        kveik_completion_finish(&done);
        done = (struct kveik_completion)KVEIK_COMPLETION_INIT;
    }
    if (share->quiescing == 0) {
        quiesce(share);
    }
}

static bool busy(const struct share *share)
{
    bool found = share->late > 0 || share->quiescing > 0;
    for (uint32_t page = 0; page < share->options.page_count; page++) {
        found = found || (share->states[page] != PAGE_FREE && share->states[page] != PAGE_HELD);
    }
    return found;
}

bool share_flush(struct share *share, uint32_t timeout_ms)
{
    double until = now_ms() + timeout_ms;
    share_poll(share);
    while (busy(share)) {
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        double left = until - now_ms();
        if (left <= 0 || kveik_wait(share->client, 0, (uint32_t)left + 1, &done) != KVEIK_OK) {
            return false;
        }
        settle(share, &done);
        kveik_completion_finish(&done);
        share_poll(share);
    }
    return true;
}

/* Waits for one request of ours. False: it is late, and share_poll() sees to it when it comes. */
static bool await(struct share *share, uint64_t op, double until,
                  struct kveik_completion *completion_out)
{
    double left = until - now_ms();
    int status = kveik_wait(share->client, op, left > 0 ? (uint32_t)left + 1 : 0, completion_out);
    if (status == KVEIK_OK) {
        return true;
    }
    share->late++;
    share->counts.late_requests++;
    share->ask_again = now_ms() + (double)BACKOFF * share->options.deadline_ms;
    return false;
}

/* ---- a prompt -------------------------------------------------------------------------------- */

/* Whether to ask the daemon at all; if not, `text` says why. */
static bool ready(struct share *share, char text[SHARE_TEXT_BYTES])
{
    struct kveik_info info = KVEIK_INFO_INIT;
    struct kveik_error error = {0};
    share_poll(share);
    if (kveik_info(share->client, &info) != KVEIK_OK || !info.connected) {
        (void)snprintf(text, SHARE_TEXT_BYTES, "no daemon");
        return false;
    }
    share->counts.reconnects = info.reconnects;
    if (share->late > 0 || share->quiescing > 0 || now_ms() < share->ask_again) {
        /* one deadline was waited for it; not another one for each prompt */
        (void)snprintf(text, SHARE_TEXT_BYTES, "the daemon has not answered yet");
        return false;
    }
    if (share_describe(share, &error) != KVEIK_OK) {
        (void)snprintf(text, SHARE_TEXT_BYTES, "%s", error.text);
        return false;
    }
    return true;
}

bool share_pushes(struct share *share)
{
    char text[SHARE_TEXT_BYTES];
    return ready(share, text);
}

/* Keys of the grains up to `tokens`, a multiple of the grain. */
static bool hash_up_to(struct share *share, const uint32_t *tokens, uint32_t count)
{
    if (count <= share->hashed_tokens) {
        return true;
    }
    uint32_t from = share->hashed_tokens;
    uint8_t *keys = share->keys + (size_t)(from / GRAIN) * KVEIK_KEY_BYTES;
    const uint8_t *parent = from > 0 ? keys - KVEIK_KEY_BYTES : NULL;
    if (kveik_hash_tokens(parent, tokens + from, count - from, NULL, 0, keys) != KVEIK_OK) {
        return false;
    }
    share->hashed_tokens = count;
    return true;
}

/* How this space is asked: by grains, or (opaque blocks, known by their last grain) by blocks. */
static uint32_t key_tokens(const struct share *share)
{
    return share->opaque ? share->blob->tokens : GRAIN;
}

/* The keys from token `from` to `to` in that step. */
static const uint8_t *keys_for(struct share *share, uint32_t from, uint32_t to)
{
    if (!share->opaque) {
        return share->keys + (size_t)(from / GRAIN) * KVEIK_KEY_BYTES;
    }
    uint32_t block = share->blob->tokens;
    for (uint32_t end = from + block; end <= to; end += block) {
        memcpy(share->block_keys + (size_t)(end / block - 1) * KVEIK_KEY_BYTES,
               share->keys + (size_t)(end / GRAIN - 1) * KVEIK_KEY_BYTES, KVEIK_KEY_BYTES);
    }
    return share->block_keys + (size_t)(from / block) * KVEIK_KEY_BYTES;
}

/* Returns the tokens that are held, with a lease on them. */
static uint32_t look_up(struct share *share, uint32_t usable, double until, uint64_t *lease_out,
                        char text[SHARE_TEXT_BYTES])
{
    struct kveik_error error = {0};
    struct kveik_lookup lookup = KVEIK_LOOKUP_INIT;
    lookup.space = share->space;
    lookup.keys = keys_for(share, 0, usable);
    lookup.key_tokens = key_tokens(share);
    lookup.key_count = usable / lookup.key_tokens;
    lookup.step_tokens = share->options.step_tokens;
    lookup.lease = true;
    lookup.deadline_ms = share->options.deadline_ms;
    uint64_t op = 0;
    if (kveik_submit_lookup(share->client, &lookup, NULL, &op, &error) != KVEIK_OK) {
        (void)snprintf(text, SHARE_TEXT_BYTES, "lookup: %.200s", error.text);
        return 0;
    }
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    if (!await(share, op, until, &done)) {
        (void)snprintf(text, SHARE_TEXT_BYTES, "lookup: no answer within the deadline");
        return 0;
    }
    uint32_t found = 0;
    if (done.status < 0) {
        (void)snprintf(text, SHARE_TEXT_BYTES, "lookup: %.200s", done.text);
    } else if ((double)done.expected_us / 1e3 > until - now_ms()) {
        (void)snprintf(text, SHARE_TEXT_BYTES, "pulling would take longer than the deadline");
    } else {
        found = done.hit_tokens;
    }
    *lease_out = done.lease;
    kveik_completion_finish(&done);
    return found;
}

/* As many pages as there are; returns the tokens that they hold, a multiple of the step. */
static uint32_t take_pages(struct share *share, uint32_t found, uint32_t *pages_out)
{
    uint32_t count = 0;
    while (count < found / share->blob->tokens && share_take_page(share, &pages_out[count])) {
        count++;
    }
    uint32_t tokens = count * share->blob->tokens / share->options.step_tokens;
    tokens *= share->options.step_tokens;
    while (count > tokens / share->blob->tokens) {
        share_give_back(share, pages_out[--count]);
    }
    return tokens;
}

/* One run a group. What a window no longer sees is not pulled: it is zero there, which no token
 * from `tokens` on attends to. */
static struct kveik_pull_run run_of(struct share *share, const struct share_group *group,
                                    uint32_t tokens, const uint32_t *pages)
{
    uint32_t block = share->blob->tokens;
    uint32_t window = share->options.window_tokens;
    uint32_t from = group->window && tokens > window ? tokens - window : 0;
    from -= from % key_tokens(share);
    for (uint32_t at = 0; at < from; at += block) {
        kv_blob_clear(share->blob, group->part, share_page(share, pages[at / block]));
    }
    return (struct kveik_pull_run){.layout = group->layout,
                                   .keys = keys_for(share, from, tokens),
                                   .key_count = (tokens - from) / key_tokens(share),
                                   .key_tokens = key_tokens(share),
                                   .pages = pages + from / block,
                                   .page_count = tokens / block - from / block,
                                   .page_token = from % block};
}

/* All of it arrived, or nothing counts: a window is that of the last token. */
static bool pulled(const struct kveik_completion *done)
{
    bool all = done->status == KVEIK_OK;
    for (uint32_t i = 0; all && i < done->status_count; i++) {
        all = done->statuses[i] == KVEIK_OK;
    }
    return all;
}

static bool pull(struct share *share, uint32_t tokens, const uint32_t *pages, uint64_t lease,
                 double until, struct share_found *found)
{
    struct kveik_pull_run runs[KV_BLOB_PARTS_MAX];
    struct kveik_error error = {0};
    for (uint32_t i = 0; i < share->group_count; i++) {
        runs[i] = run_of(share, &share->groups[i], tokens, pages);
    }
    double left = until - now_ms();
    struct kveik_pull pull = KVEIK_PULL_INIT;
    pull.runs = runs;
    pull.run_count = share->group_count;
    pull.deadline_ms = left > 1 ? (uint32_t)left : 1;
    pull.lease = lease;
    pull.release_lease = true;
    uint64_t op = 0;
    if (kveik_submit_pull(share->client, &pull, NULL, &op, &error) != KVEIK_OK) {
        (void)snprintf(found->text, SHARE_TEXT_BYTES, "pull: %.200s", error.text);
        (void)kveik_submit_release(share->client, lease, NULL, NULL, NULL);
        return false;
    }
    uint32_t count = tokens / share->blob->tokens;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    if (!await(share, op, until, &done)) {
        for (uint32_t i = 0; i < count; i++) {
            share->states[pages[i]] = PAGE_PULLING;
        }
        (void)snprintf(found->text, SHARE_TEXT_BYTES, "pull: no answer within the deadline");
        return false;
    }
    bool good = pulled(&done);
    if (!good) {
        (void)snprintf(found->text, SHARE_TEXT_BYTES, "pull: %.200s",
                       done.status < 0 ? done.text : "a block is gone");
    }
    for (uint32_t i = 0; i < count && done.status == KVEIK_E_STUCK; i++) {
        share->states[pages[i]] = PAGE_STUCK;
    }
    found->bytes = good ? done.bytes : 0;
    kveik_completion_finish(&done);
    return good;
}

void share_fetch(struct share *share, const uint32_t *tokens, uint32_t count, uint32_t *pages_out,
                 struct share_found *found_out)
{
    uint32_t step = share->options.step_tokens;
    uint32_t usable = count > 0 ? (count - 1) / step * step : 0;
    double began = now_ms();
    double until = began + share->options.deadline_ms;
    uint64_t lease = 0;
    *found_out = (struct share_found){0};
    share->hashed_tokens = 0;
    if (usable == 0 || !ready(share, found_out->text) || !hash_up_to(share, tokens, usable)) {
        return;
    }
    uint32_t found = look_up(share, usable, until, &lease, found_out->text);
    found = take_pages(share, found, pages_out);
    double asked = now_ms();
    found_out->lookup_ms = asked - began;
    if (found > 0 && pull(share, found, pages_out, lease, until, found_out)) {
        found_out->tokens = found;
        share->counts.pulled_blocks += found / share->blob->tokens;
    } else if (found == 0 && lease != 0) {
        (void)kveik_submit_release(share->client, lease, NULL, NULL, NULL);
    }
    for (uint32_t i = 0; found_out->tokens == 0 && i < found / share->blob->tokens; i++) {
        if (share->states[pages_out[i]] == PAGE_HELD) { /* not late: nothing touches it */
            share_give_back(share, pages_out[i]);
        }
    }
    found_out->pull_ms = found > 0 ? now_ms() - asked : 0;
}

void share_push(struct share *share, uint32_t page, const uint32_t *tokens, uint32_t block)
{
    uint32_t block_tokens = share->blob->tokens;
    uint32_t from = block * block_tokens;
    uint32_t to = from + block_tokens;
    struct kveik_push_run runs[KV_BLOB_PARTS_MAX];
    bool good = hash_up_to(share, tokens, to);
    for (uint32_t i = 0; good && i < share->group_count; i++) {
        runs[i] = (struct kveik_push_run){
            .layout = share->groups[i].layout,
            .block_count = 1,
            .block_tokens = block_tokens,
            .parent_key =
                from > 0 ? share->keys + (size_t)(from / GRAIN - 1) * KVEIK_KEY_BYTES : NULL,
            .keys = keys_for(share, from, to),
            .key_count = block_tokens / key_tokens(share),
            .tokens = tokens + from,
            .pages = &page,
            .page_count = 1};
    }
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = runs;
    push.run_count = share->group_count;
    good = good &&
           kveik_submit_push(share->client, &push, &share->states[page], NULL, NULL) == KVEIK_OK;
    share->states[page] = good ? PAGE_PUSHING : PAGE_FREE;
    share->counts.skipped_blocks += !good;
}

void share_count(struct share *share, struct share_counts *counts_out)
{
    *counts_out = share->counts;
}
