// The server under load, with scripted tokens in place of a model, in a process of its own whose memory and descriptors
// are looked at from here: a thousand streams, ten thousand connections that say nothing, thousands that dribble,
// bodies without an end, machines that have vanished, and clients that come and go by the thousands.
//
// Under a sanitizer there are fewer of them, and memory is not looked at: it holds back what is freed.
#include "tests/sanitized.h"
#include "tests/server/service.h"

#include <limits.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { MANY = SANITIZED ? 10 : 1, OWN_DESCRIPTORS = 64, GROWTH_KIB_MAX = 1024 }; // counts are divided by MANY

// ---- A server in a process of its own

struct house {
    pid_t pid;
    struct service service; // of it, only the address is known here
};

// Runs until SIGTERM; the address goes through the pipe.
static int live(int out, char *const *flags, int count) {
    void *state = NULL;
    if (start(&state, flags, count) != 0) return 1;
    struct service *service = state;
    if (write(out, service->socket.address, LISTENER_ADDRESS_BYTES) != LISTENER_ADDRESS_BYTES) return 1;
    close(out);
    stop(service);
    return 0;
}

static int move_in(void **state, char *const *flags, int count) {
    struct house *house = calloc(1, sizeof *house);
    int pipes[2];
    if (!house || pipe(pipes) != 0) return -1;
    house->pid = fork();
    if (house->pid == 0) {
        close(pipes[0]);
        free(house);
        exit(live(pipes[1], flags, count));
    }
    close(pipes[1]);
    char *address = house->service.socket.address;
    bool up = house->pid > 0 && read(pipes[0], address, LISTENER_ADDRESS_BYTES) == LISTENER_ADDRESS_BYTES;
    close(pipes[0]);
    *state = house;
    return up ? 0 : -1;
}

// It ends in good order: with a sanitizer, that is with nothing to report.
static int move_out(void **state) {
    struct house *house = *state;
    int status = -1;
    kill(house->pid, SIGTERM);
    waitpid(house->pid, &status, 0);
    free(house);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// A line of /proc/PID/status, in KiB.
static long memory_kib(const struct house *house, const char *key) {
    char path[64], line[256];
    long kib = -1;
    snprintf(path, sizeof path, "/proc/%d/status", (int)house->pid);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0) kib = strtol(line + strlen(key) + 1, NULL, 10);
    fclose(file);
    assert_true(kib > 0);
    return kib;
}

static int descriptors(const struct house *house) {
    char path[64];
    int count = -3; // ".", "..", and the directory itself, which is ours
    snprintf(path, sizeof path, "/proc/%d/fd", (int)house->pid);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    while (readdir(dir)) count++;
    closedir(dir);
    return count;
}

static void wait_for_descriptors(const struct house *house, int most) {
    for (int ms = 0; ms < PATIENCE_MS; ms += 20) {
        if (descriptors(house) <= most) return;
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    fail_msg("%d descriptors are open, not %d", descriptors(house), most);
}

// Here and, as it is inherited, in servers to come. False: the system does not allow so many.
static bool allow_descriptors(int wanted) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    rlim_t needed = (rlim_t)wanted + OWN_DESCRIPTORS;
    if (limit.rlim_cur >= needed) return true;
    if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < needed) return false;
    limit.rlim_cur = needed;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

// ---- Many connections at once, without a thread for each

struct crowd {
    int poll, size;
    int *fds; // [size]; -1: closed
};

static void crowd_come(struct crowd *crowd, const struct house *house, int size) {
    *crowd = (struct crowd){.poll = epoll_create1(EPOLL_CLOEXEC), .size = size};
    crowd->fds = malloc((size_t)size * sizeof *crowd->fds);
    assert_non_null(crowd->fds);
    for (int i = 0; i < size; i++) {
        crowd->fds[i] = dial(&house->service, 0);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        assert_int_equal(epoll_ctl(crowd->poll, EPOLL_CTL_ADD, crowd->fds[i], &event), 0);
    }
}

static void crowd_close(struct crowd *crowd, int i) {
    close(crowd->fds[i]);
    crowd->fds[i] = -1;
}

static void crowd_go(struct crowd *crowd) {
    for (int i = 0; i < crowd->size; i++)
        if (crowd->fds[i] >= 0) close(crowd->fds[i]);
    close(crowd->poll);
    free(crowd->fds);
}

// One of those that have something to read; -1: none has, for so long.
static int crowd_next(struct crowd *crowd, int patience_ms) {
    struct epoll_event event;
    int ready;
    while ((ready = epoll_wait(crowd->poll, &event, 1, patience_ms)) < 0) assert_int_equal(errno, EINTR);
    return ready == 1 ? (int)event.data.u32 : -1;
}

static void stays_well(const struct house *house) {
    answers(&house->service, HEALTH CLOSE "\r\n", 200, "\"status\":\"ok\"");
}

// ---- A thousand streams

enum { STREAMS = 1000 / MANY, TOKENS = 40 };

static int setup_streams(void **state) {
    char *flags[] = {"--max-sequences=1000"};
    if (!allow_descriptors(STREAMS + 400)) skip();
    setenv("STUB_STEP_US", "20000", 1);
    int code = move_in(state, flags, 1);
    unsetenv("STUB_STEP_US");
    return code;
}

struct listener_of { // reads one stream
    int next;        // token
    bool done;
    size_t bytes;
    char text[512]; // what has come and is not a whole line yet
};

// Each token bears the name that its stream was asked with: nothing of another's, nothing lost, nothing twice.
static void check_line(struct listener_of *it, int number, char *line) {
    static const char mark[] = "\"delta\":{\"content\":\"";
    char *content = strstr(line, mark), expected[32];
    if (strncmp(line, "data: [DONE]", 12) == 0) {
        assert_int_equal(it->next, TOKENS);
        it->done = true;
    }
    if (strncmp(line, "HTTP/1.1 ", 9) == 0 && strncmp(line + 9, "200", 3) != 0) fail_msg("stream %d: %s", number, line);
    if (strstr(line, "{\"error\"")) fail_msg("stream %d: %s", number, line);
    if (!content) return;
    content += strlen(mark);
    char *end = strchr(content, '"');
    assert_non_null(end);
    *end = '\0';
    snprintf(expected, sizeof expected, "s%d.%d ", number, it->next++);
    assert_string_equal(content, expected);
}

static void read_stream(struct listener_of *it, int number, const char *piece, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        assert_true(it->bytes < sizeof it->text - 1);
        it->text[it->bytes++] = piece[i];
        if (piece[i] != '\n') continue;
        it->text[it->bytes] = '\0';
        check_line(it, number, it->text);
        it->bytes = 0;
    }
}

static void test_thousand_streams(void **state) {
    struct house *house = *state;
    struct crowd crowd;
    struct listener_of *ears = calloc(STREAMS, sizeof *ears);
    assert_non_null(ears);
    crowd_come(&crowd, house, STREAMS);
    for (int i = 0; i < STREAMS; i++) {
        char name[32];
        snprintf(name, sizeof name, "<s%d>", i);
        say_chat(crowd.fds[i], name, true, TOKENS, CLOSE);
    }
    int done = 0, probes = 0;
    for (long events = 0; done < STREAMS; events++) {
        char piece[4096];
        int i = crowd_next(&crowd, PATIENCE_MS);
        if (i < 0) fail_msg("%d streams are silent", STREAMS - done);
        ssize_t got = recv(crowd.fds[i], piece, sizeof piece, MSG_DONTWAIT);
        if (got > 0) read_stream(&ears[i], i, piece, (size_t)got);
        if (got > 0 || (got < 0 && errno == EAGAIN)) {
            if (events % (5 * STREAMS) == 0 && ++probes) stays_well(house);
            continue;
        }
        if (!ears[i].done) fail_msg("stream %d was dropped behind token %d", i, ears[i].next);
        crowd_close(&crowd, i);
        done++;
    }
    assert_true(probes > 0);
    crowd_go(&crowd);
    free(ears);
}

// ---- Ten thousand that say nothing more

enum { IDLE = 10000 / MANY, IDLE_KIB_MAX = 400 * 1000 };

static int setup_idle(void **state) {
    char *flags[] = {"--connections-max=12000", "--idle-seconds=600", "--header-seconds=600"};
    if (!allow_descriptors(IDLE + 400)) skip();
    return move_in(state, flags, 3);
}

// All have asked once: a connection costs more then than one that never did. All of the process counts, not only what
// they have added.
static void test_idle_connections(void **state) {
    struct house *house = *state;
    struct crowd crowd;
    char answer[1024];
    crowd_come(&crowd, house, IDLE);
    for (int i = 0; i < IDLE; i++) say(crowd.fds[i], HEALTH "\r\n");
    for (int i = 0; i < IDLE; i++) {
        ssize_t got = recv(crowd.fds[i], answer, sizeof answer, 0);
        if (got < 12 || memcmp(answer, "HTTP/1.1 200", 12) != 0) fail_msg("connection %d was not answered", i);
    }
    assert_true(descriptors(house) > IDLE);
    long kib = memory_kib(house, "VmRSS");
    print_message("# %d idle connections: %ld KiB in all\n", IDLE, kib);
    if (!SANITIZED && kib > IDLE_KIB_MAX) fail_msg("%ld KiB for %d idle connections", kib, IDLE);
    stays_well(house);
    for (int i = 0; i < IDLE; i += 997) { // they are not forgotten
        say(crowd.fds[i], HEALTH "\r\n");
        assert_true(recv(crowd.fds[i], answer, sizeof answer, 0) > 0);
    }
    crowd_go(&crowd);
    wait_for_descriptors(house, OWN_DESCRIPTORS);
}

// ---- Those that dribble

enum { DRIBBLERS = 5000 / MANY };

static bool falls_silent(int dribbler) {
    return dribbler % 8 == 0;
}

static int setup_impatient_house(void **state) {
    char *flags[] = {"--connections-max=6000", "--header-seconds=3",    "--body-seconds=1",
                     "--idle-seconds=2",       "--heartbeat-seconds=0.3", "--body-bytes-max=64K"};
    if (!allow_descriptors(DRIBBLERS + 400)) skip();
    return move_in(state, flags, sizeof flags / sizeof *flags);
}

// A header that never ends, byte by byte: nobody waits for it longer than is allowed, others are served meanwhile. They
// are told why; but a reset swallows that where bytes cross it, and a busy machine may not have looked at all of them by
// then: so some have to hear it of those who have fallen silent.
static void test_slowloris(void **state) {
    struct house *house = *state;
    struct crowd crowd;
    int before = descriptors(house), told = 0, closed = 0;
    crowd_come(&crowd, house, DRIBBLERS);
    for (int i = 0; i < DRIBBLERS; i++) say(crowd.fds[i], "GET /health HTTP/1.1\r\nX-A: ");
    for (int beat = 0; closed < DRIBBLERS; beat++) {
        for (int i = 0; i < DRIBBLERS; i++)
            if (crowd.fds[i] >= 0 && (beat == 0 || !falls_silent(i)))
                (void)!send(crowd.fds[i], "a", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        stays_well(house);
        for (int i; (i = crowd_next(&crowd, 50)) >= 0;) {
            char answer[1024];
            ssize_t got = recv(crowd.fds[i], answer, sizeof answer, MSG_DONTWAIT);
            if (got > 0) {
                assert_memory_equal(answer, "HTTP/1.1 408 ", 13);
                told += falls_silent(i);
                continue;
            }
            if (got < 0 && errno == EAGAIN) continue;
            crowd_close(&crowd, i);
            closed++;
        }
        assert_true(beat < PATIENCE_MS / 50);
    }
    assert_true(told > 0);
    crowd_go(&crowd);
    wait_for_descriptors(house, before);
}

// Bodies in chunks without an end, and bodies that are announced and never come: each is over within its time, whatever
// it sends, and takes no more memory than a body may.
static void test_endless_bodies(void **state) {
    enum { BODIES = 400 / MANY };
    static const char piece[] = "100\r\n"
                                "                                                                "
                                "                                                                "
                                "                                                                "
                                "                                                                "
                                "\r\n";
    struct house *house = *state;
    struct crowd crowd;
    int before = descriptors(house), closed = 0;
    crowd_come(&crowd, house, BODIES);
    for (int i = 0; i < BODIES; i++)
        say(crowd.fds[i], i % 2 ? LINE("POST", "/v1/completions") "Transfer-Encoding: chunked\r\n\r\n"
                                : LINE("POST", "/v1/completions") "Content-Length: 60000\r\n\r\n");
    while (closed < BODIES) {
        for (int i = 0; i < BODIES; i++)
            if (crowd.fds[i] >= 0)
                (void)!send(crowd.fds[i], i % 2 ? piece : " ", i % 2 ? sizeof piece - 1 : 1,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        stays_well(house);
        for (int i; (i = crowd_next(&crowd, 5)) >= 0;) {
            char answer[1024];
            ssize_t got = recv(crowd.fds[i], answer, sizeof answer, MSG_DONTWAIT);
            if (got > 0) assert_memory_equal(answer, "HTTP/1.1 4", 10);
            if (got > 0 || (got < 0 && errno == EAGAIN)) continue;
            crowd_close(&crowd, i);
            closed++;
        }
    }
    crowd_go(&crowd);
    wait_for_descriptors(house, before);
}

// Machines that have vanished: no end, no reset, as after a power cut. TCP_REPAIR lets a socket go like that.
static void vanish(int fd) {
    int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof on) != 0) {
        print_message("# skipped: this process may not use TCP_REPAIR (CAP_NET_ADMIN)\n");
        skip();
    }
    close(fd);
}

static void test_half_open(void **state) {
    static const char *const starts[] = {
        "",
        "GET /health HTTP/1.1\r\n",
        HEALTH "\r\n",
        LINE("POST", "/v1/completions") "Content-Length: 9\r\n\r\n{",
    };
    enum { KINDS = sizeof starts / sizeof *starts, EACH = 20 };
    struct house *house = *state;
    int before = descriptors(house);
    for (int i = 0; i < EACH * KINDS; i++) {
        int fd = dial(&house->service, 0);
        say(fd, starts[i % KINDS]);
        if (i % KINDS == 2) free(hear(fd, "}"));
        vanish(fd);
    }
    for (int i = 0; i < 2; i++) { // while a stream runs, and while it waits for its first token
        int fd = dial(&house->service, 0);
        say_chat(fd, i ? "silent" : "hi", true, 1000000, "");
        free(hear(fd, i ? ": ping" : "t0 "));
        vanish(fd);
    }
    stays_well(house);
    wait_for_descriptors(house, before);
    struct service *service = &house->service;
    assert_int_equal((int)metric(service, "tandem_sequences_running"), 0);
}

// Many requests in one piece on each connection: as many answers as were looked at, all of them ours.
static void test_pipelining(void **state) {
    enum { PIPES = 500 / MANY, AHEAD = 16 };
    struct house *house = *state;
    struct crowd crowd;
    struct buffer all;
    buffer_init(&all, 1 << 16);
    for (int i = 0; i < AHEAD; i++) buffer_text(&all, i < AHEAD - 1 ? HEALTH "\r\n" : HEALTH CLOSE "\r\n");
    crowd_come(&crowd, house, PIPES);
    for (int i = 0; i < PIPES; i++) say(crowd.fds[i], all.data);
    for (int i = 0; i < PIPES; i++) {
        char *answer = hear(crowd.fds[i], NULL);
        assert_int_equal(count(answer, "HTTP/1.1 200 OK\r\n"), AHEAD);
        assert_int_equal(count(answer, "HTTP/1.1 "), AHEAD);
        free(answer);
    }
    buffer_finish(&all);
    crowd_go(&crowd);
}

// A reset behind part of a header is the end, also where it comes before the part was looked at.
static void test_resets(void **state) {
    struct house *house = *state;
    int before = descriptors(house);
    for (int i = 0; i < 400; i++) {
        int fd = dial(&house->service, 0);
        if (i % 2) say(fd, HEALTH "\r\n");
        if (i % 2) free(hear(fd, "}"));
        say(fd, "GET /health HTTP/1.1\r\n");
        if (i % 4 > 1) nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
        struct linger reset = {.l_onoff = 1};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(fd);
    }
    wait_for_descriptors(house, before); // and not only after the ten minutes that a header may take here
}

// ---- Ten times as many as there is room for

enum {
    PLACES = 32,
    ROOM = 2 * PLACES,
    OVERLOAD = 10 * ROOM,
    OVERLOAD_FIRST = SANITIZED ? 1 : 8, // rounds until the heap is as large as the worst rush makes it
    OVERLOAD_ROUNDS = 3 * OVERLOAD_FIRST,
    OVERLOAD_KIB_MAX = 4 * 1024,
};

static int setup_overload(void **state) {
    char *flags[] = {"--max-sequences=32", "--queue=32", "--queue-seconds=0"};
    if (!allow_descriptors(ROOM + OVERLOAD + 400)) skip();
    return move_in(state, flags, 3);
}

// All ask at once, and again, while nobody ends: each is told when to come back, and after some rounds no more memory
// is taken. How many connections are alive at once, and what they take, is different each time: so the least of the
// last rounds is held against the most of the first ones. 800 bytes left behind by each would be seen on a quiet
// machine. Then whoever asks is answered.
static void test_overload(void **state) {
    struct house *house = *state;
    struct service *service = &house->service;
    struct crowd inside, outside;
    int before = descriptors(house);
    long most = 0, least = LONG_MAX;
    crowd_come(&inside, house, ROOM);
    for (int i = 0; i < ROOM; i++) say_chat(inside.fds[i], "silent", true, 5, CLOSE);
    for (int ms = 0; metric(service, "tandem_queue_length") < PLACES; ms++) assert_true(ms < PATIENCE_MS);
    for (int round = 0; round < OVERLOAD_ROUNDS; round++) {
        crowd_come(&outside, house, OVERLOAD);
        for (int i = 0; i < OVERLOAD; i++) say_chat(outside.fds[i], "hi", i % 2, 5, CLOSE);
        stays_well(house);
        for (int i = 0; i < OVERLOAD; i++) {
            char *answer = hear(outside.fds[i], NULL);
            expect_status(answer, 429);
            expect(answer, "retry-after-ms: ");
            free(answer);
        }
        long now = memory_kib(house, "RssAnon");
        if (round < OVERLOAD_FIRST && now > most) most = now;
        if (round >= OVERLOAD_ROUNDS - OVERLOAD_FIRST && now < least) least = now;
        crowd_go(&outside);
    }
    print_message("# %d refused: %ld KiB of anonymous memory at most for the first %d, then at least %+ld KiB\n",
                  OVERLOAD * OVERLOAD_ROUNDS, most, OVERLOAD * OVERLOAD_FIRST, least - most);
    if (!SANITIZED && least - most > OVERLOAD_KIB_MAX)
        fail_msg("%ld KiB more for those who were refused", least - most);
    assert_int_equal((int)metric(service, "tandem_sequences_running"), PLACES);
    crowd_go(&inside);
    char *request = chat("hi", false, 2, CLOSE);
    for (int ms = 0; metric(service, "tandem_sequences_running") > 0; ms++) assert_true(ms < PATIENCE_MS);
    answers(service, request, 200, "t1 ");
    free(request);
    wait_for_descriptors(house, before);
}

// ---- Coming and going

// Requests of every kind, of which one in five is left by its client at a random moment. Neither memory nor descriptors
// grow.
enum { VISITS = 10000 / MANY, AT_ONCE_MAX = 32 };

static int setup_visits(void **state) {
    char *flags[] = {"--max-sequences=64", "--queue=64"};
    setenv("STUB_STEP_US", "200", 1);
    int code = move_in(state, flags, 2);
    unsetenv("STUB_STEP_US");
    return code;
}

static uint32_t draw(uint32_t *seed, uint32_t below) {
    *seed = *seed * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)*seed * below) >> 32);
}

static void ask(int fd, uint32_t kind) {
    static const char *const requests[] = {
        HEALTH CLOSE "\r\n",
        LINE("GET", "/metrics") CLOSE "\r\n",
        LINE("POST", "/v1/completions") CLOSE "Content-Length: 2\r\n\r\n{}",
        LINE("POST", "/v1/completions") CLOSE "Transfer-Encoding: chunked\r\n\r\n1b\r\n"
                                              "{\"prompt\":\"a\",\"max_tokens\":2}"
                                              "\r\n0\r\n\r\n",
    };
    if (kind < 4)
        say(fd, requests[kind]);
    else
        say_chat(fd, "hi", kind % 2, 3, kind % 3 ? CLOSE : CLOSE "X-Request-Id: mine\r\n");
}

static void visit(struct house *house, int visits, uint32_t *seed) {
    struct crowd crowd;
    for (int left = visits; left > 0; left -= AT_ONCE_MAX) {
        crowd_come(&crowd, house, AT_ONCE_MAX);
        for (int i = 0; i < AT_ONCE_MAX; i++) {
            ask(crowd.fds[i], draw(seed, 8));
            if (draw(seed, 5) > 0) continue;
            struct linger reset = {.l_onoff = 1};
            if (draw(seed, 2)) setsockopt(crowd.fds[i], SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
            if (draw(seed, 2)) nanosleep(&(struct timespec){.tv_nsec = draw(seed, 1000000)}, NULL);
            crowd_close(&crowd, i);
        }
        for (int i = 0; i < AT_ONCE_MAX; i++) {
            if (crowd.fds[i] < 0) continue;
            char *answer = hear(crowd.fds[i], NULL);
            assert_memory_equal(answer, "HTTP/1.1 ", 9);
            free(answer);
        }
        crowd_go(&crowd);
    }
}

static void test_no_growth(void **state) {
    struct house *house = *state;
    uint32_t seed = 6;
    int before = descriptors(house);
    visit(house, VISITS / 4, &seed);
    wait_for_descriptors(house, before);
    long kib = memory_kib(house, "RssAnon");
    visit(house, VISITS, &seed);
    wait_for_descriptors(house, before);
    long grown = memory_kib(house, "RssAnon") - kib;
    print_message("# %d requests: %ld KiB of anonymous memory, then %+ld KiB\n", VISITS, kib, grown);
    if (!SANITIZED && grown > GROWTH_KIB_MAX) fail_msg("%d requests have left %ld KiB behind", VISITS, grown);
    assert_int_equal((int)metric(&house->service, "tandem_requests_in_progress"), 1); // this one
}

#define IN(setup_of_it, test) cmocka_unit_test_setup_teardown(test, setup_of_it, move_out)

int main(void) {
    const struct CMUnitTest tests[] = {
        IN(setup_streams, test_thousand_streams),
        IN(setup_idle, test_idle_connections),
        IN(setup_impatient_house, test_slowloris),
        IN(setup_impatient_house, test_endless_bodies),
        IN(setup_impatient_house, test_half_open),
        IN(setup_idle, test_pipelining),
        IN(setup_idle, test_resets),
        IN(setup_overload, test_overload),
        IN(setup_visits, test_no_growth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
