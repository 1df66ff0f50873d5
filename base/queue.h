/* An intrusive, circular, doubly linked list. The caller embeds `struct queue` in its object. */
#ifndef KVEIK_BASE_QUEUE_H
#define KVEIK_BASE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>

struct queue {
    struct queue *next;
    struct queue *prev;
};

#define CONTAINER_OF(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* `item` is declared by the loop: a name, which takes no parentheses.
 * NOLINTBEGIN(bugprone-macro-parentheses) */
#define queue_foreach(item, head)                                                                  \
    for (struct queue *item = (head)->next; item != (head); item = item->next)

/* As queue_foreach, but `item` may be removed in the body. */
#define queue_foreach_safe(item, head)                                                             \
    for (struct queue *item = (head)->next, *item##_next = item->next; item != (head);             \
         item = item##_next, item##_next = item->next)
/* NOLINTEND(bugprone-macro-parentheses) */

static inline void queue_init(struct queue *head)
{
    head->next = head;
    head->prev = head;
}

static inline bool queue_empty(const struct queue *head)
{
    return head->next == head;
}

static inline void queue_push_back(struct queue *head, struct queue *item)
{
    item->next = head;
    item->prev = head->prev;
    head->prev->next = item;
    head->prev = item;
}

/* Removes and re-initialises `item`, so that removing twice is harmless. */
static inline void queue_remove(struct queue *item)
{
    item->prev->next = item->next;
    item->next->prev = item->prev;
    queue_init(item);
}

/* NULL when empty. */
static inline struct queue *queue_pop_front(struct queue *head)
{
    if (queue_empty(head)) {
        return NULL;
    }
    struct queue *item = head->next;
    queue_remove(item);
    return item;
}

#endif
