#include "cli/load.h"

#include "base/buffer.h"
#include "base/clock.h"
#include "base/doubles.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    ANSWER_BYTES_MAX = 16 * 1024 * 1024,
    REQUEST_BYTES_MAX = 4 * 1024 * 1024,
    PATIENCE_MS = 600 * 1000, // for anything at all to happen
};

// While streams run, bytes are kept with their time and nothing else is done: what is measured shares the processor.
struct mark {
    size_t bytes; // of the answer there were
    double at;
};

struct stream {
    int fd; // -1: not sent yet, or read to its end
    double sent_at;
    struct buffer answer;
    struct mark *marks; // [mark_count]
    size_t mark_count, mark_capacity;
};

struct load {
    const struct load_plan *plan;
    struct stream *streams; // [plan->requests]
    struct pollfd *polled;  // [plan->requests]
    int sent, under_way;
    double began_at;
};

// ---- Figures

static bool add_time(struct load_times *times, double seconds) {
    if (times->count == times->capacity) {
        size_t capacity = times->capacity ? 2 * times->capacity : 256;
        double *of = realloc(times->of, capacity * sizeof *of);
        if (!of) return false;
        times->of = of;
        times->capacity = capacity;
    }
    times->of[times->count++] = seconds;
    return true;
}

// The smallest that so large a share of all does not exceed.
double load_quantile(const struct load_times *times, double share) {
    if (times->count == 0) return 0;
    double rank = ceil(share * (double)times->count);
    size_t index = rank < 1 ? 0 : (size_t)rank - 1;
    return times->of[index < times->count ? index : times->count - 1];
}

void load_finish(struct load_outcome *outcome) {
    free(outcome->first.of);
    free(outcome->between.of);
    free(outcome->whole.of);
    *outcome = (struct load_outcome){0};
}

// ---- Sending

static int fail(const char *what, struct error *error) {
    return error_set(error, ERROR_IO, "could not %s the server: %s", what, strerror(errno));
}

static int send_all(int fd, const char *data, size_t bytes, struct error *error) {
    while (bytes > 0) {
        ssize_t sent = send(fd, data, bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return fail("ask", error);
        data += sent;
        bytes -= (size_t)sent;
    }
    return 0;
}

static int dial(int port, int *out, struct error *error) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        fail("connect to", error);
        if (fd >= 0) close(fd);
        return error->code;
    }
    *out = fd;
    return 0;
}

// Header and body of one request.
static bool write_request(const char *prompt, int new_tokens, struct buffer *out) {
    struct buffer body;
    buffer_init(&body, REQUEST_BYTES_MAX);
    bool well = buffer_format(&body,
                              "{\"prompt\":%s,\"max_tokens\":%d,\"temperature\":0,\"ignore_eos\":true,"
                              "\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
                              prompt, new_tokens);
    well = well && buffer_format(out,
                                 "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                                 "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                                 body.bytes);
    well = well && buffer_append(out, body.data, body.bytes);
    buffer_finish(&body);
    return well;
}

// *sent_at: once the connection is there.
static int send_request(int port, const char *prompt, int new_tokens, int *fd, double *sent_at, struct error *error) {
    struct buffer request;
    buffer_init(&request, REQUEST_BYTES_MAX);
    int code = write_request(prompt, new_tokens, &request) ? 0 : error_set_code(error, ERROR_MEMORY);
    if (!code) code = dial(port, fd, error);
    if (!code) {
        *sent_at = clock_seconds();
        code = send_all(*fd, request.data, request.bytes, error);
    }
    buffer_finish(&request);
    return code;
}

int load_send(int port, const char *prompt, int new_tokens, int *fd, struct error *error) {
    double sent_at;
    *fd = -1;
    int code = send_request(port, prompt, new_tokens, fd, &sent_at, error);
    if (code && *fd >= 0) close(*fd);
    if (code) *fd = -1;
    return code;
}

static int send_next(struct load *load, struct error *error) {
    struct stream *stream = &load->streams[load->sent];
    const struct load_plan *plan = load->plan;
    char *prompt = plan->prompt(plan->user);
    int code = prompt ? 0 : error_set_code(error, ERROR_MEMORY);
    if (!code) code = send_request(plan->port, prompt, plan->new_tokens, &stream->fd, &stream->sent_at, error);
    if (stream->fd >= 0) load->under_way++;
    load->sent++;
    free(prompt);
    return code;
}

// ---- Receiving

static bool add_mark(struct stream *stream, double at) {
    if (stream->mark_count == stream->mark_capacity) {
        size_t capacity = stream->mark_capacity ? 2 * stream->mark_capacity : 64;
        struct mark *marks = realloc(stream->marks, capacity * sizeof *marks);
        if (!marks) return false;
        stream->marks = marks;
        stream->mark_capacity = capacity;
    }
    stream->marks[stream->mark_count++] = (struct mark){.bytes = stream->answer.bytes, .at = at};
    return true;
}

static int receive(struct load *load, struct stream *stream, struct error *error) {
    char bytes[64 * 1024];
    ssize_t got = recv(stream->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR ? 0 : fail("hear from", error);
    if (got == 0) {
        close(stream->fd);
        stream->fd = -1;
        load->under_way--;
        return 0;
    }
    if (buffer_append(&stream->answer, bytes, (size_t)got) && add_mark(stream, clock_seconds())) return 0;
    return error_set(error, ERROR_MEMORY, "out of memory for an answer of more than %zu bytes", stream->answer.bytes);
}

// Milliseconds until the next request is due; -1: it is up to the answers.
static int next_due_ms(const struct load *load, double now) {
    const struct load_plan *plan = load->plan;
    if (load->sent == plan->requests) return -1;
    if (plan->per_second == 0) return load->under_way < plan->clients ? 0 : -1;
    double due = load->began_at + load->sent / plan->per_second;
    return due <= now ? 0 : (int)ceil((due - now) * 1e3);
}

static int wait_and_receive(struct load *load, int due_ms, struct error *error) {
    nfds_t count = 0;
    int order[LOAD_REQUESTS_MAX], code = 0;
    for (int i = 0; i < load->sent; i++) {
        if (load->streams[i].fd < 0) continue;
        order[count] = i;
        load->polled[count++] = (struct pollfd){.fd = load->streams[i].fd, .events = POLLIN};
    }
    int ready = poll(load->polled, count, due_ms >= 0 ? due_ms : PATIENCE_MS);
    if (ready < 0 && errno != EINTR) return fail("wait for", error);
    if (ready == 0 && due_ms < 0)
        return error_set(error, ERROR_TIMEOUT, "the server was silent for %d seconds", PATIENCE_MS / 1000);
    for (nfds_t i = 0; !code && ready > 0 && i < count; i++)
        if (load->polled[i].revents) code = receive(load, &load->streams[order[i]], error);
    return code;
}

static int drive(struct load *load, struct error *error) {
    int code = 0;
    load->began_at = clock_seconds();
    while (!code && (load->sent < load->plan->requests || load->under_way > 0)) {
        int due_ms = next_due_ms(load, clock_seconds());
        code = due_ms == 0 ? send_next(load, error) : wait_and_receive(load, due_ms, error);
    }
    return code;
}

// ---- Reading what was received

static int not_understood(const struct stream *stream, struct error *error) {
    int shown = stream->answer.bytes < 200 ? (int)stream->answer.bytes : 200;
    return error_set(error, ERROR_FORMAT, "the server's answer is no stream: %.*s", shown,
                     stream->answer.data ? stream->answer.data : "");
}

static double time_of(const struct stream *stream, const char *place) {
    size_t bytes = (size_t)(place - stream->answer.data), low = 0, high = stream->mark_count - 1;
    while (low < high) { // the first mark that is not before it
        size_t middle = (low + high) / 2;
        if (stream->marks[middle].bytes < bytes)
            low = middle + 1;
        else
            high = middle;
    }
    return stream->marks[low].at;
}

// One event's JSON. *last_at: when a token came last; 0: none has.
static int read_event(const char *text, size_t bytes, double at, const struct stream *stream, double *last_at,
                      struct load_outcome *out, struct error *error) {
    json_t *event = json_loadb(text, bytes, 0, NULL);
    const json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
    bool token = json_string_length(json_object_get(choice, "text")) > 0, well = event != NULL;
    out->tokens += (size_t)json_integer_value(json_object_get(json_object_get(event, "usage"), "completion_tokens"));
    if (json_object_get(event, "error")) well = false;
    json_decref(event);
    if (!well) return error_set(error, ERROR_FORMAT, "the server sent %.*s", (int)(bytes < 200 ? bytes : 200), text);
    if (!token) return 0;
    struct load_times *times = *last_at == 0 ? &out->first : &out->between;
    if (!add_time(times, at - (*last_at == 0 ? stream->sent_at : *last_at))) return error_set_code(error, ERROR_MEMORY);
    *last_at = at;
    return 0;
}

// Puts the chunks of the body together in place, and moves the marks along. NULL: they are not in order, or the last is
// missing; otherwise the body's begin.
static char *join_chunks(struct stream *stream) {
    char *header_end = strstr(stream->answer.data, "\r\n\r\n");
    if (!header_end) return NULL;
    char *body = header_end + 4, *to = body, *end = stream->answer.data + stream->answer.bytes;
    size_t mark = 0;
    for (char *from = body; from < end;) {
        char *after;
        unsigned long bytes = strtoul(from, &after, 16);
        if (after == from || strncmp(after, "\r\n", 2) != 0) return NULL;
        from = after + 2;
        if (bytes == 0) {
            *to = '\0';
            for (; mark < stream->mark_count; mark++) stream->marks[mark].bytes = (size_t)(to - stream->answer.data);
            stream->answer.bytes = (size_t)(to - stream->answer.data);
            return body;
        }
        if (bytes > (size_t)(end - from)) return NULL;
        size_t begin = (size_t)(from - stream->answer.data), moved = (size_t)(from - to);
        for (; mark < stream->mark_count && stream->marks[mark].bytes <= begin + bytes; mark++) {
            size_t there = stream->marks[mark].bytes > begin ? stream->marks[mark].bytes : begin;
            stream->marks[mark].bytes = there - moved;
        }
        memmove(to, from, bytes);
        to += bytes;
        from += bytes + 2; // and the end of its line
    }
    return NULL;
}

// Events are lines "data: …" with an empty one behind each.
static int read_stream(struct stream *stream, struct load_outcome *out, struct error *error) {
    if (stream->answer.bytes == 0) return not_understood(stream, error);
    if (strncmp(stream->answer.data, "HTTP/1.1 429", 12) == 0) {
        out->refused++;
        return 0;
    }
    const char *at = strncmp(stream->answer.data, "HTTP/1.1 200", 12) == 0 ? join_chunks(stream) : NULL;
    if (!at) return not_understood(stream, error);
    double last_at = 0;
    int code = 0;
    while (!code && (at = strstr(at, "data: "))) {
        at += strlen("data: ");
        const char *end = strchr(at, '\n');
        if (!end) return not_understood(stream, error);
        if (strncmp(at, "[DONE]", 6) == 0) {
            if (add_time(&out->whole, time_of(stream, end) - stream->sent_at)) return 0;
            return error_set_code(error, ERROR_MEMORY);
        }
        code = read_event(at, (size_t)(end - at), time_of(stream, end), stream, &last_at, out, error);
        at = end;
    }
    return code ? code : error_set(error, ERROR_FORMAT, "a stream ended without [DONE]");
}

static double ended_at(const struct load *load) {
    double last = load->began_at;
    for (int i = 0; i < load->sent; i++) {
        const struct stream *stream = &load->streams[i];
        if (stream->mark_count > 0 && stream->marks[stream->mark_count - 1].at > last)
            last = stream->marks[stream->mark_count - 1].at;
    }
    return last;
}

// ---- All of it

int load_run(const struct load_plan *plan, struct load_outcome *out, struct error *error) {
    *out = (struct load_outcome){0};
    if (plan->requests < 1 || plan->requests > LOAD_REQUESTS_MAX || plan->clients < 1)
        return error_set(error, ERROR_ARGUMENT, "%d requests of %d clients; expected 1 to %d of at least 1",
                         plan->requests, plan->clients, LOAD_REQUESTS_MAX);
    struct load load = {.plan = plan};
    load.streams = calloc((size_t)plan->requests, sizeof *load.streams);
    load.polled = calloc((size_t)plan->requests, sizeof *load.polled);
    int code = load.streams && load.polled ? 0 : error_set_code(error, ERROR_MEMORY);
    for (int i = 0; !code && i < plan->requests; i++) {
        load.streams[i].fd = -1;
        buffer_init(&load.streams[i].answer, ANSWER_BYTES_MAX);
    }
    if (!code) code = drive(&load, error);
    for (int i = 0; !code && i < plan->requests; i++) code = read_stream(&load.streams[i], out, error);
    out->seconds = ended_at(&load) - load.began_at;
    doubles_sort(out->first.of, out->first.count);
    doubles_sort(out->between.of, out->between.count);
    doubles_sort(out->whole.of, out->whole.count);
    for (int i = 0; i < load.sent; i++) {
        if (load.streams[i].fd >= 0) close(load.streams[i].fd);
        buffer_finish(&load.streams[i].answer);
        free(load.streams[i].marks);
    }
    free(load.polled);
    free(load.streams);
    return code;
}
