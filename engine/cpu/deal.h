// Work dealt out to the threads of the team: the largest shares first and single things last, so that fast and slow
// cores, and one that somebody else holds up, end together. A deal lives on the stack of the thread that starts the
// team; any of the team's threads takes from it.
#ifndef ENGINE_CPU_DEAL_H
#define ENGINE_CPU_DEAL_H

#include <stdatomic.h>

struct share {
    int first, last; // things [first, last)
};

struct deal {
    _Atomic int next; // the first that nobody has taken
    int count, parts; // a share is one part of so many of what is left
    int most;         // but no more things than these
};

static inline struct deal deal_of(int count, int threads, int most) {
    return (struct deal){0, count, 2 * threads, most > 1 ? most : 1};
}

// An even number but at the end: kernels are best at two things at once.
static inline int deal_size(const struct deal *deal, int left) {
    int some = left / deal->parts;
    if (some > deal->most) some = deal->most;
    return some > 1 ? some / 2 * 2 : left > 0;
}

// The next share; an empty one when there is no more.
static inline struct share deal_take(struct deal *deal) {
    int first = atomic_load(&deal->next), some;
    do some = deal_size(deal, deal->count - first);
    while (!atomic_compare_exchange_weak(&deal->next, &first, first + some));
    return (struct share){first, first + some};
}

#endif
