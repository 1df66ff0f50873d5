/*
 * Waiting and the event descriptor. The library has no thread: whoever waits does the work for all.
 *
 *   lead()    one thread sleeps in the inner epoll with the mutex given up, then works
 *   follow()  the others sleep on the condition variable
 *
 * Who makes progress while others sleep (any call may read an answer) sets client.progress;
 * client_publish(), before the mutex is given up, turns that into wake-ups. A leader that leaves
 * hands over through client_leave().
 */
#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "client/lib/client.h"

enum { EVENTS_MAX = 4, NAP_MAX_MS = 60000 };

/* eventfds and timerfds of our own: a write or read of 8 bytes fails only when there is nothing to
 * do, since they do not block. */
static void counter_raise(int fd)
{
    uint64_t one = 1;
    ssize_t ignored = write(fd, &one, sizeof one);
    (void)ignored;
}

static void counter_clear(int fd)
{
    uint64_t count = 0;
    ssize_t ignored = read(fd, &count, sizeof count);
    (void)ignored;
}

void client_wake_at(struct kveik_client *client, uint64_t at_ms)
{
    if (client->timer_at_ms != 0 && client->timer_at_ms <= at_ms) {
        return; /* it fires before that and is armed anew then */
    }
    at_ms = at_ms == 0 ? 1 : at_ms;
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(at_ms / 1000), .tv_nsec = (long)(at_ms % 1000) * 1000000L}};
    int armed = timerfd_settime(client->timer, TFD_TIMER_ABSTIME, &when, NULL);
    KVEIK_ASSERT(armed == 0);
    client->timer_at_ms = at_ms;
}

void client_work(struct kveik_client *client)
{
    /* what was answered counts, however late we come for it: only then is anything given up */
    connection_read(client);
    uint64_t now_ms = clock_ms();
    if (client->timer_at_ms != 0 && client->timer_at_ms <= now_ms) {
        counter_clear(client->timer);
        client->timer_at_ms = 0;
        op_expire(client, now_ms);
    }
    connection_step(client, now_ms);
}

void client_publish(struct kveik_client *client)
{
    if (client->progress) {
        client->progress = false;
        if (client->followers > 0) {
            (void)pthread_cond_broadcast(&client->changed);
        }
        if (client->leader) {
            counter_raise(client->wake);
        }
    }
    bool pollable = !queue_empty(&client->ready);
    if (pollable != client->event_set) {
        client->event_set = pollable;
        if (pollable) {
            counter_raise(client->event);
        } else {
            counter_clear(client->event);
        }
    }
}

static void lead(struct kveik_client *client, uint64_t nap_ms)
{
    KVEIK_ASSERT(!client->leader);
    client->leader = true;
    client_publish(client);
    (void)pthread_mutex_unlock(&client->mutex);
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(client->inner, events, EVENTS_MAX, (int)nap_ms);
    (void)pthread_mutex_lock(&client->mutex);
    client->leader = false;
    for (int i = 0; i < count; i++) {
        if (events[i].data.fd == client->wake) {
            counter_clear(client->wake);
        }
    }
    client_work(client);
}

static void follow(struct kveik_client *client, uint64_t nap_ms)
{
    struct timespec when;
    (void)clock_gettime(CLOCK_MONOTONIC, &when);
    uint64_t ns = (uint64_t)when.tv_nsec + nap_ms % 1000 * 1000000u;
    when.tv_sec += (time_t)(nap_ms / 1000 + ns / 1000000000u);
    when.tv_nsec = (long)(ns % 1000000000u);
    client_publish(client);
    client->followers++;
    (void)pthread_cond_timedwait(&client->changed, &client->mutex, &when);
    client->followers--;
}

int client_await(struct kveik_client *client, client_done_fn done, const void *arg,
                 uint64_t until_ms)
{
    for (;;) {
        if (done(client, arg)) {
            return ST_OK;
        }
        uint64_t now_ms = clock_ms();
        if (now_ms >= until_ms) {
            return ST_PENDING;
        }
        uint64_t nap_ms = until_ms - now_ms;
        nap_ms = nap_ms < NAP_MAX_MS ? nap_ms : NAP_MAX_MS;
        if (client->leader) {
            follow(client, nap_ms);
        } else {
            lead(client, nap_ms);
        }
    }
}
