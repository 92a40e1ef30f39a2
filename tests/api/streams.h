// What tests of chat and completions share: streams as a client reads them, answers, and their usage and timings. The
// engine's events are made by hand. Failures end the test.
#ifndef TESTS_API_STREAMS_H
#define TESTS_API_STREAMS_H

#include "api/json.h"
#include "tests/api/fake_engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { EVENTS_MAX = 64 };

struct stream {
    json_t *events[EVENTS_MAX]; // all but [DONE]
    size_t count;
    bool done;
};

// Takes the bytes apart; each event must be one line of JSON and an empty line, and nothing may follow [DONE].
static inline struct stream read_stream(const struct buffer *bytes) {
    struct stream stream = {0};
    assert_false(bytes->failed);
    for (const char *at = bytes->data; at && *at;) {
        assert_memory_equal(at, "data: ", 6);
        const char *end = strstr(at, "\n\n");
        assert_non_null(end);
        assert_null(memchr(at, '\n', (size_t)(end - at)));
        assert_false(stream.done);
        assert_true(stream.count < EVENTS_MAX);
        if (end - at == 12 && memcmp(at, "data: [DONE]", 12) == 0)
            stream.done = true;
        else
            assert_non_null(stream.events[stream.count++] = json_loadb(at + 6, (size_t)(end - at) - 6, 0, NULL));
        at = end + 2;
    }
    return stream;
}

static inline void free_stream(struct stream *stream) {
    for (size_t i = 0; i < stream->count; i++) json_decref(stream->events[i]);
}

static inline const json_t *choice_of(const json_t *event) {
    return json_array_get(json_object_get(event, "choices"), 0);
}

static inline void assert_json(const json_t *found, const char *expected) {
    json_t *wanted = json_loads(expected, JSON_DECODE_ANY, NULL);
    assert_non_null(wanted);
    if (!json_equal(found, wanted)) {
        char *text = json_dumps(found, JSON_ENCODE_ANY);
        fail_msg("found %s\nexpected %s", text, expected);
    }
    json_decref(wanted);
}

static inline json_t *read_result(struct generation *generation, int status) {
    struct api_reply reply;
    api_reply_init(&reply);
    generation_result(generation, &reply);
    assert_int_equal(reply.status, status);
    assert_string_equal(reply.content_type, "application/json");
    json_t *result = json_loadb(reply.body.data, reply.body.bytes, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(result);
    buffer_finish(&reply.body);
    return result;
}

static inline void send(struct generation *generation, size_t job, struct engine_event event, struct buffer *out) {
    generation_event(generation, job, &event, out);
}

#endif
