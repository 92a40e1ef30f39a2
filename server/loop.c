#include "server/loop.h"

#include <stdlib.h>
#include <uv.h>

struct loop {
    uv_loop_t uv;
    uv_prepare_t prepare;
    void (*before_wait)(void *user);
    void *before_wait_user;
};

// Each object starts with its uv handle, so that one function can free them all once libuv has let go.
struct loop_timer {
    uv_timer_t handle;
    void (*callback)(void *user);
    void *user;
};

struct loop_watch {
    uv_poll_t handle;
    int events; // that it is started for; 0: it is stopped
    void (*callback)(void *user, int events);
    void *user;
};

struct loop_wake {
    uv_async_t handle;
    void (*callback)(void *user);
    void *user;
};

struct loop_signal {
    uv_signal_t handle;
    void (*callback)(void *user, int number);
    void *user;
};

struct work {
    uv_work_t request;
    void (*work)(void *user);
    void (*done)(void *user);
    void *user;
};

static void free_handle(uv_handle_t *handle) {
    free(handle);
}

static void close_handle(void *handle) {
    if (handle) uv_close(handle, free_handle);
}

// ---- The loop

static void on_prepare(uv_prepare_t *prepare) {
    struct loop *loop = prepare->data;
    if (loop->before_wait) loop->before_wait(loop->before_wait_user);
}

int loop_create(struct loop **out, struct error *error) {
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop) return error_set_code(error, ERROR_MEMORY);
    int code = uv_loop_init(&loop->uv);
    if (code != 0) {
        free(loop);
        return error_set(error, ERROR_IO, "the event loop could not start: %s", uv_strerror(code));
    }
    uv_prepare_init(&loop->uv, &loop->prepare);
    loop->prepare.data = loop;
    uv_prepare_start(&loop->prepare, on_prepare);
    *out = loop;
    return 0;
}

void loop_destroy(struct loop *loop) {
    if (!loop) return;
    loop->before_wait = NULL;
    uv_close((uv_handle_t *)&loop->prepare, NULL);
    while (uv_loop_close(&loop->uv) == UV_EBUSY) uv_run(&loop->uv, UV_RUN_ONCE);
    free(loop);
}

void loop_run(struct loop *loop) {
    uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void loop_stop(struct loop *loop) {
    uv_stop(&loop->uv);
}

uint64_t loop_now_ms(const struct loop *loop) {
    return uv_now(&loop->uv);
}

void loop_before_wait(struct loop *loop, void (*callback)(void *user), void *user) {
    loop->before_wait = callback;
    loop->before_wait_user = user;
}

// ---- Timers

static void on_timer(uv_timer_t *handle) {
    struct loop_timer *timer = (struct loop_timer *)handle;
    timer->callback(timer->user);
}

struct loop_timer *loop_timer_create(struct loop *loop, void (*callback)(void *user), void *user) {
    struct loop_timer *timer = calloc(1, sizeof *timer);
    if (!timer) return NULL;
    uv_timer_init(&loop->uv, &timer->handle);
    timer->callback = callback;
    timer->user = user;
    return timer;
}

void loop_timer_start(struct loop_timer *timer, uint64_t delay_ms, uint64_t repeat_ms) {
    uv_timer_start(&timer->handle, on_timer, delay_ms, repeat_ms);
}

void loop_timer_destroy(struct loop_timer *timer) {
    close_handle(timer);
}

// ---- Watched descriptors

static void on_poll(uv_poll_t *handle, int status, int events) {
    struct loop_watch *watch = (struct loop_watch *)handle;
    int seen = 0;
    if (status != 0) { // an error on the socket: whoever reads will find it; libuv has stopped looking
        seen = LOOP_READABLE | LOOP_DISCONNECT;
        watch->events = 0;
    }
    if (events & UV_READABLE) seen |= LOOP_READABLE;
    if (events & UV_DISCONNECT) seen |= LOOP_DISCONNECT;
    watch->callback(watch->user, seen);
}

struct loop_watch *loop_watch_create(struct loop *loop, int fd, void (*callback)(void *user, int events), void *user) {
    struct loop_watch *watch = calloc(1, sizeof *watch);
    if (!watch) return NULL;
    if (uv_poll_init(&loop->uv, &watch->handle, fd) != 0) {
        free(watch);
        return NULL;
    }
    watch->callback = callback;
    watch->user = user;
    return watch;
}

void loop_watch_start(struct loop_watch *watch, int events) {
    if (watch->events == events) return; // libuv would take it out of its epoll set and put it in again
    watch->events = events;
    int wanted = 0;
    if (events & LOOP_READABLE) wanted |= UV_READABLE;
    if (events & LOOP_DISCONNECT) wanted |= UV_DISCONNECT;
    uv_poll_start(&watch->handle, wanted, on_poll);
}

void loop_watch_stop(struct loop_watch *watch) {
    watch->events = 0;
    uv_poll_stop(&watch->handle);
}

void loop_watch_redirect(struct loop_watch *watch, void (*callback)(void *user, int events), void *user) {
    watch->callback = callback;
    watch->user = user;
}

void loop_watch_destroy(struct loop_watch *watch) {
    close_handle(watch);
}

// ---- Wake-ups

static void on_async(uv_async_t *handle) {
    struct loop_wake *wake = (struct loop_wake *)handle;
    wake->callback(wake->user);
}

struct loop_wake *loop_wake_create(struct loop *loop, void (*callback)(void *user), void *user) {
    struct loop_wake *wake = calloc(1, sizeof *wake);
    if (!wake) return NULL;
    if (uv_async_init(&loop->uv, &wake->handle, on_async) != 0) {
        free(wake);
        return NULL;
    }
    wake->callback = callback;
    wake->user = user;
    return wake;
}

void loop_wake_send(struct loop_wake *wake) {
    uv_async_send(&wake->handle);
}

void loop_wake_destroy(struct loop_wake *wake) {
    close_handle(wake);
}

// ---- Signals

static void on_signal(uv_signal_t *handle, int number) {
    struct loop_signal *signal = (struct loop_signal *)handle;
    signal->callback(signal->user, number);
}

struct loop_signal *loop_signal_create(struct loop *loop, int number, void (*callback)(void *user, int number),
                                       void *user) {
    struct loop_signal *signal = calloc(1, sizeof *signal);
    if (!signal) return NULL;
    if (uv_signal_init(&loop->uv, &signal->handle) != 0) {
        free(signal);
        return NULL;
    }
    signal->callback = callback;
    signal->user = user;
    if (uv_signal_start(&signal->handle, on_signal, number) != 0) {
        close_handle(signal);
        return NULL;
    }
    return signal;
}

void loop_signal_destroy(struct loop_signal *signal) {
    close_handle(signal);
}

// ---- Work for the pool

static void on_work(uv_work_t *request) {
    struct work *work = (struct work *)request;
    work->work(work->user);
}

static void on_work_done(uv_work_t *request, int status) {
    (void)status; // nothing here cancels work
    struct work *work = (struct work *)request;
    work->done(work->user);
    free(work);
}

int loop_work(struct loop *loop, void (*work)(void *user), void (*done)(void *user), void *user) {
    struct work *item = calloc(1, sizeof *item);
    if (!item) return ERROR_MEMORY;
    item->work = work;
    item->done = done;
    item->user = user;
    if (uv_queue_work(&loop->uv, &item->request, on_work, on_work_done) != 0) {
        free(item);
        return ERROR_MEMORY;
    }
    return 0;
}
