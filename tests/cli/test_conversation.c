// A conversation: what stays in it when the context is short, and what is in the files that it is kept in.
#include "cli/conversation.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static struct conversation conversation;
static struct error error;
static char path[] = "/tmp/tandem-conversation-XXXXXX";
static int measured; // calls of count_bytes

static int begin(void **state) {
    (void)state;
    int file = mkstemp(path);
    measured = 0;
    return file < 0 || close(file);
}

static int end(void **state) {
    (void)state;
    conversation_finish(&conversation);
    unlink(path);
    memcpy(path + strlen(path) - 6, "XXXXXX", 6);
    return 0;
}

static void say(const char *role, const char *text) {
    assert_int_equal(conversation_add(&conversation, role, text, strlen(text), &error), 0);
}

// "s:text u:text a:text": roles by their first letter.
static void holds(const char *expected) {
    char text[512] = "";
    size_t bytes = 0;
    for (size_t i = 0; i < conversation.count; i++) {
        const struct chat_message *message = &conversation.messages[i];
        assert_int_equal(strlen(message->content), message->content_bytes);
        bytes += (size_t)snprintf(text + bytes, sizeof text - bytes, "%s%c:%s", i ? " " : "", message->role[0],
                                  message->content);
        assert_true(bytes < sizeof text);
    }
    assert_string_equal(text, expected);
}

// ---- What the context has room for. A token is a byte here, and a message has one more.

static int count_bytes(void *user, const struct chat_message *messages, size_t count, size_t *tokens,
                       struct error *cause) {
    (void)user;
    (void)cause;
    measured++;
    *tokens = count;
    for (size_t i = 0; i < count; i++) *tokens += messages[i].content_bytes;
    return 0;
}

static size_t fit(size_t context, size_t answer) {
    size_t dropped;
    assert_int_equal(conversation_fit(&conversation, context, answer, count_bytes, NULL, &dropped, &error), 0);
    return dropped;
}

static void talk(void) { // 4 + 5 × 8 tokens, and the last question's 4
    for (int turn = 1; turn <= 5; turn++) {
        char text[] = "q_0";
        text[2] = (char)('0' + turn);
        say("user", text);
        text[0] = 'a';
        say("assistant", text);
    }
    say("user", "end");
}

static void test_all_fits(void **state) {
    (void)state;
    talk();
    assert_int_equal(conversation_set_system(&conversation, "sys", &error), 0);
    assert_int_equal(fit(58, 10), 0);
    assert_int_equal(measured, 1);
    assert_int_equal(conversation.count, 12);
}

static void test_oldest_go(void **state) {
    (void)state;
    talk();
    assert_int_equal(conversation_set_system(&conversation, "sys", &error), 0);
    assert_int_equal(fit(57, 10), 3); // 48 + 10 do not fit: down to 28, of which 4 + 2 × 8 + 4 leave nothing more
    holds("s:sys u:q_4 a:a_4 u:q_5 a:a_5 u:end");
    assert_int_equal(fit(57, 10), 0);
}

static void test_without_system(void **state) {
    (void)state;
    talk();
    assert_int_equal(fit(53, 10), 3); // 44 + 10; the half is 26, 28 of them are too many
    holds("u:q_4 a:a_4 u:q_5 a:a_5 u:end");
}

static void test_last_turn_stays(void **state) {
    (void)state;
    talk();
    assert_int_equal(conversation_set_system(&conversation, "sys", &error), 0);
    assert_int_equal(fit(9, 4), 5); // 8 are no half of 9, but leave one free
    holds("s:sys u:end");
    assert_int_equal(fit(9, 4), 0);
}

static void test_too_long(void **state) {
    (void)state;
    size_t dropped;
    talk();
    assert_int_equal(conversation_set_system(&conversation, "sys", &error), 0);
    assert_int_equal(conversation_fit(&conversation, 8, 4, count_bytes, NULL, &dropped, &error), ERROR_CONTEXT_LENGTH);
    assert_non_null(strstr(error.message, "at least 8 tokens, and the context is 8"));
    assert_int_equal(conversation.count, 12); // nothing is lost
    assert_int_equal(dropped, 0);
}

static void test_no_turns(void **state) {
    (void)state;
    assert_int_equal(fit(8, 4), 0);
    say("system", "a long one indeed");
    assert_int_equal(fit(8, 4), 0);
    holds("s:a long one indeed");
}

// A loaded conversation may be as it likes: an answer first, questions without answers.
static void test_odd_turns(void **state) {
    (void)state;
    say("assistant", "a");
    say("user", "b");
    say("user", "c");
    say("assistant", "d");
    say("assistant", "e");
    say("user", "f");
    assert_int_equal(fit(16, 5), 2); // turns: a, b, c d e, f
    holds("u:c a:d a:e u:f");
    assert_int_equal(fit(8, 1), 1);
    holds("u:f");
}

static void test_long_ones_are_measured_seldom(void **state) {
    (void)state;
    for (int i = 0; i < 1000; i++) say("user", "x");
    assert_int_equal(fit(100, 10), 975);
    assert_true(measured <= 13); // all, ten halvings, the rest
}

static int no_measure(void *user, const struct chat_message *messages, size_t count, size_t *tokens,
                      struct error *cause) {
    (void)user;
    (void)messages;
    (void)count;
    (void)tokens;
    return error_set_code(cause, ERROR_MEMORY);
}

static void test_measure_fails(void **state) {
    (void)state;
    size_t dropped;
    talk();
    assert_int_equal(conversation_fit(&conversation, 8, 4, no_measure, NULL, &dropped, &error), ERROR_MEMORY);
    assert_int_equal(conversation.count, 11);
}

// ---- Messages

static void test_system(void **state) {
    (void)state;
    say("user", "q");
    say("assistant", "a");
    assert_false(conversation_has_system(&conversation));
    assert_int_equal(conversation_set_system(&conversation, "one", &error), 0);
    holds("s:one u:q a:a");
    assert_int_equal(conversation_set_system(&conversation, "two", &error), 0);
    holds("s:two u:q a:a");
    conversation_reset(&conversation);
    holds("s:two");
    say("user", "q");
    assert_int_equal(conversation_set_system(&conversation, "", &error), 0);
    holds("u:q");
    assert_int_equal(conversation_set_system(&conversation, "", &error), 0);
    holds("u:q");
    conversation_reset(&conversation);
    holds("");
}

// JSON from outside may hold none here.
static void test_nul_becomes_a_space(void **state) {
    (void)state;
    assert_int_equal(conversation_add(&conversation, "user", "a\0b", 3, &error), 0);
    holds("u:a b");
}

// ---- Files

static void write_text(const char *text, size_t bytes) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static void test_there_and_back(void **state) {
    (void)state;
    static const char ODD[] = "\"quotes\" \\ \n\t\x01\x7f é 🦊 <|end|>";
    assert_int_equal(conversation_set_system(&conversation, "sys", &error), 0);
    say("user", "");
    assert_int_equal(conversation_add(&conversation, "assistant", ODD, sizeof ODD - 1, &error), 0);
    assert_int_equal(conversation_save(&conversation, path, &error), 0);
    struct conversation again = {0};
    assert_int_equal(conversation_load(&again, path, &error), 0);
    assert_int_equal(again.count, 3);
    for (size_t i = 0; i < 3; i++) {
        const struct chat_message *one = &conversation.messages[i], *two = &again.messages[i];
        assert_string_equal(one->role, two->role);
        assert_int_equal(one->content_bytes, two->content_bytes);
        assert_memory_equal(one->content, two->content, one->content_bytes + 1);
    }
    conversation_finish(&again);
}

static void test_file_as_it_is(void **state) {
    (void)state;
    assert_int_equal(conversation_set_system(&conversation, "sys", &error), 0);
    say("user", "a\nb");
    assert_int_equal(conversation_save(&conversation, path, &error), 0);
    char text[256] = "";
    FILE *file = fopen(path, "rb");
    assert_true(fread(text, 1, sizeof text - 1, file) > 0);
    fclose(file);
    assert_string_equal(text, "{\"messages\": [\n  {\"role\": \"system\", \"content\": \"sys\"},\n"
                              "  {\"role\": \"user\", \"content\": \"a\\nb\"}\n]}\n");
}

// One that can not be written whole leaves the earlier one as it is; none is for others to read, and a link stays one.
static void test_save_replaces(void **state) {
    (void)state;
    say("user", "first");
    assert_int_equal(conversation_save(&conversation, path, &error), 0);
    struct stat before, after;
    assert_int_equal(stat(path, &before), 0);
    assert_int_equal(before.st_mode & 0777, 0600);

    struct rlimit limit, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = (struct rlimit){.rlim_cur = 16, .rlim_max = limit.rlim_max}; // as a full disk
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    say("assistant", "second");
    int code = conversation_save(&conversation, path, &error);
    setrlimit(RLIMIT_FSIZE, &limit);
    assert_int_equal(code, ERROR_IO);
    struct conversation again = {0};
    assert_int_equal(conversation_load(&again, path, &error), 0);
    assert_int_equal(again.count, 1);
    conversation_finish(&again);

    char link[64];
    snprintf(link, sizeof link, "%s.link", path);
    assert_int_equal(symlink(path, link), 0);
    code = conversation_save(&conversation, link, &error);
    struct stat linked;
    int still = lstat(link, &linked);
    unlink(link);
    assert_int_equal(code, 0);
    assert_int_equal(still, 0);
    assert_true(S_ISLNK(linked.st_mode));
    assert_int_equal(stat(path, &after), 0);
    assert_true(after.st_size > before.st_size && after.st_ino != before.st_ino);
}

static void test_a_requests_body(void **state) {
    (void)state;
    static const char BODY[] =
        "{\"model\": \"demo\", \"stream\": true, \"messages\": [{\"role\": \"developer\", \"content\": "
        "\"s\"}, {\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"q\"}]}, "
        "{\"role\": \"assistant\", \"content\": null}]}";
    write_text(BODY, sizeof BODY - 1);
    assert_int_equal(conversation_load(&conversation, path, &error), 0);
    holds("s:s u:q a:");
}

#define REFUSES(text, cause) refuses(text, sizeof text - 1, cause)

static void refuses(const char *text, size_t bytes, const char *cause) {
    write_text(text, bytes);
    assert_true(conversation_load(&conversation, path, &error) != 0);
    assert_memory_equal(error.message, path, strlen(path)); // the file is named first
    if (!strstr(error.message, cause)) fail_msg("%s", error.message);
    conversation_finish(&conversation);
}

static void test_damaged_files(void **state) {
    (void)state;
    REFUSES("", "JSON");
    REFUSES("{\"messages\": [{\"role\": \"user\", \"content\": \"a", "JSON");
    REFUSES("[]", "object");
    REFUSES("{}", "'messages' is required");
    REFUSES("{\"messages\": []}", "at least one message");
    REFUSES("{\"messages\": \"x\"}", "messages");
    REFUSES("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, 7]}", "messages[1]");
    REFUSES("{\"messages\": [{\"role\": \"tool\", \"content\": \"a\"}]}", "messages[0].role");
    REFUSES("{\"messages\": [{\"role\": \"user\"}]}", "messages[0].content");
    REFUSES("{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}", "UTF-8");
    REFUSES("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"system\", \"content\": \"b\"}]}",
            "'messages[1].role' is system, which only the first may be");
}

static void test_places_that_are_none(void **state) {
    (void)state;
    assert_int_equal(conversation_load(&conversation, "/nowhere/at/all", &error), ERROR_NOT_FOUND);
    assert_non_null(strstr(error.message, "/nowhere/at/all"));
    assert_int_equal(conversation_save(&conversation, path, &error), ERROR_ARGUMENT); // empty: load would not take it
    say("user", "a");
    assert_int_equal(conversation_save(&conversation, "/nowhere/at/all", &error), ERROR_IO);
    assert_string_equal(error.message, "/nowhere/at/all can not be written: No such file or directory");
    assert_int_equal(conversation_save(&conversation, "/dev/full", &error), ERROR_IO);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(all_fits),      TEST(oldest_go),       TEST(without_system),      TEST(last_turn_stays),
        TEST(too_long),      TEST(no_turns),        TEST(odd_turns),           TEST(long_ones_are_measured_seldom),
        TEST(measure_fails), TEST(system),          TEST(nul_becomes_a_space), TEST(there_and_back),
        TEST(file_as_it_is), TEST(a_requests_body), TEST(damaged_files),       TEST(places_that_are_none),
        TEST(save_replaces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
