// The event loop: timers, watched descriptors, signals, wake-ups from other threads and work for the pool.
// The only module that knows libuv.
//
// Everything here belongs to the loop thread (the one that calls loop_run), except loop_wake_send and the
// `work` function of loop_work. A destroy call takes NULL, and from then on no callback of that object comes;
// its descriptor may be closed at once.
#ifndef SERVER_LOOP_H
#define SERVER_LOOP_H

#include "base/error.h"

#include <stdint.h>

struct loop;
struct loop_timer;
struct loop_watch;
struct loop_wake;
struct loop_signal;

int loop_create(struct loop **out, struct error *error);
// Everything created on the loop must have been destroyed. Waits for work that is still under way.
void loop_destroy(struct loop *loop);

void loop_run(struct loop *loop); // until loop_stop
void loop_stop(struct loop *loop);
uint64_t loop_now_ms(const struct loop *loop); // only goes forward; read once a turn

// Called each time before the loop waits: the place for what all events of a turn have in common.
void loop_before_wait(struct loop *loop, void (*callback)(void *user), void *user);

struct loop_timer *loop_timer_create(struct loop *loop, void (*callback)(void *user), void *user);
void loop_timer_start(struct loop_timer *timer, uint64_t delay_ms, uint64_t repeat_ms); // repeat 0: once
void loop_timer_destroy(struct loop_timer *timer);

// One watch a descriptor. Level-triggered: it reports again until the cause is gone or the watch is stopped.
enum { LOOP_READABLE = 1, LOOP_DISCONNECT = 2 };
struct loop_watch *loop_watch_create(struct loop *loop, int fd, void (*callback)(void *user, int events), void *user);
void loop_watch_start(struct loop_watch *watch, int events);
void loop_watch_stop(struct loop_watch *watch);
// From now on its reports go elsewhere: for a descriptor that changes hands.
void loop_watch_redirect(struct loop_watch *watch, void (*callback)(void *user, int events), void *user);
void loop_watch_destroy(struct loop_watch *watch);

// Any thread may send; several sends may come as one call.
struct loop_wake *loop_wake_create(struct loop *loop, void (*callback)(void *user), void *user);
void loop_wake_send(struct loop_wake *wake);
void loop_wake_destroy(struct loop_wake *wake);

struct loop_signal *loop_signal_create(struct loop *loop, int number, void (*callback)(void *user, int number),
                                       void *user);
void loop_signal_destroy(struct loop_signal *signal);

// Runs work on a thread of the pool, then done on the loop thread. ERROR_MEMORY: neither will run.
int loop_work(struct loop *loop, void (*work)(void *user), void (*done)(void *user), void *user);

#endif
