// What the server counts, for Prometheus: GET /metrics writes it, `tandem help metrics` explains it, and both come from
// the one table below.
//
// All of it belongs to the loop thread. Tokens and times are noted as the server passes an answer's tokens on; what the
// engine itself counts is asked of engine_stats when somebody looks, which waits for no step. So no number here is
// touched by another thread, and writing them all takes well under a millisecond.
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include "api/endpoint.h"
#include "base/named.h"

#include <stdint.h>

// One row a metric: its id, its type, its name, its labels, and what it tells.
#define METRICS(X) \
    X(METRIC_BUILD_INFO, gauge, "tandem_build_info", "version, model, architecture, weights", \
      "Always 1; its labels say what is running") \
    X(METRIC_REQUESTS, counter, "tandem_requests_total", "route, status", \
      "Answers, by path and HTTP status; status 499: its client left, or a DELETE came, before there was one; route " \
      "other: requests and connections that reached no path") \
    X(METRIC_GENERATIONS, counter, "tandem_generations_total", "outcome", \
      "Chats and completions that were understood and have ended: stop; length; error; refused, as there was no room " \
      "or it can not be done; cancelled by a DELETE or by the client, who left or read too slowly") \
    X(METRIC_PROMPT_TOKENS, counter, "tandem_prompt_tokens_total", "", "Tokens of the prompts that were accepted") \
    X(METRIC_COMPLETION_TOKENS, counter, "tandem_completion_tokens_total", "", \
      "Tokens of answers, counted as they were passed on") \
    X(METRIC_FIRST_TOKEN, histogram, "tandem_time_to_first_token_seconds", "", \
      "From the header of a request to the first token of its answer") \
    X(METRIC_BETWEEN_TOKENS, histogram, "tandem_time_between_tokens_seconds", "", \
      "From one token of an answer to the next, as they were passed on") \
    X(METRIC_GENERATION_SECONDS, histogram, "tandem_generation_duration_seconds", "", \
      "From the header of a request to the end of its answer, of chats and completions that ended with stop or " \
      "length") \
    X(METRIC_QUEUE_SECONDS, histogram, "tandem_queue_duration_seconds", "", \
      "Wait for a place in the engine, of each of the answers that were computed to their end") \
    X(METRIC_SEQUENCES_RUNNING, gauge, "tandem_sequences_running", "", "Answers that are being computed") \
    X(METRIC_SEQUENCES_MAX, gauge, "tandem_sequences_max", "", "Answers that can be computed at once") \
    X(METRIC_QUEUE_LENGTH, gauge, "tandem_queue_length", "", "Answers that wait for a place") \
    X(METRIC_QUEUE_MAX, gauge, "tandem_queue_max", "", "Answers that may wait; the next is refused with 429") \
    X(METRIC_KV_PAGES_USED, gauge, "tandem_kv_pages_used", "", "Pages of the KV cache that running answers use") \
    X(METRIC_KV_PAGES_KEPT, gauge, "tandem_kv_pages_kept", "", \
      "Pages that none uses, kept for prompts that begin alike and given up when room is needed") \
    X(METRIC_KV_PAGES, gauge, "tandem_kv_pages", "", "Pages that the KV cache has") \
    X(METRIC_ENGINE_STEPS, counter, "tandem_engine_steps_total", "", "Steps that the engine has finished") \
    X(METRIC_ENGINE_STEP_RUNNING, gauge, "tandem_engine_step_running_seconds", "", \
      "For how long the step in progress has been running; 0: none is") \
    X(METRIC_ENGINE_PROMPT_TOKENS, counter, "tandem_engine_prompt_tokens_total", "", \
      "Tokens of prompts that were computed, for clients that left too") \
    X(METRIC_ENGINE_CACHED_TOKENS, counter, "tandem_engine_cached_tokens_total", "", \
      "Tokens of prompts that were found in kept pages instead of computed") \
    X(METRIC_ENGINE_COMPLETION_TOKENS, counter, "tandem_engine_completion_tokens_total", "", \
      "Tokens of answers that were computed, for clients that left too") \
    X(METRIC_EXPERT_CHOICES_PROMPTS, counter, "tandem_expert_choices_prompts_total", "", \
      "Choices of two experts for a row of a prompt, in all layers") \
    X(METRIC_EXPERT_CHOICES_ANSWERS, counter, "tandem_expert_choices_answers_total", "", \
      "Choices of two experts for a row of an answer, in all layers") \
    X(METRIC_EXPERT_EVENNESS, gauge, "tandem_expert_evenness", "", \
      "How evenly rows are spread over a layer's experts since the start, the mean of all layers; 1: all have as " \
      "many; " \
      "`tandem profile` tells of each layer and expert") \
    X(METRIC_EXPERT_BUSIEST, gauge, "tandem_expert_busiest_share", "", \
      "The largest share of a layer's rows that one of its experts has had since the start") \
    X(METRIC_ENGINE_GUESSED_TOKENS, counter, "tandem_engine_guessed_tokens_total", "", \
      "Tokens of answers that were computed on a guess (--speculate), right or wrong") \
    X(METRIC_ENGINE_GUESSED_RIGHT, counter, "tandem_engine_guessed_right_total", "", \
      "Those of them that were right, and so came without a step of their own") \
    X(METRIC_EXCHANGES, gauge, "tandem_requests_in_progress", "", \
      "Requests with answers that are not fully out, this one among them") \
    X(METRIC_CONNECTIONS, gauge, "tandem_connections", "", "Open connections") \
    X(METRIC_CONNECTIONS_MAX, gauge, "tandem_connections_max", "", \
      "Connections that may be open; the next is refused with 429") \
    X(METRIC_BODY_BYTES, counter, "tandem_request_body_bytes_total", "", \
      "Bytes of request bodies that arrived whole, of chats and completions") \
    X(METRIC_BODY_MEMORY, gauge, "tandem_request_body_memory_bytes", "", \
      "Memory of request bodies that are arriving or wait to be read") \
    X(METRIC_PROCESS_START, gauge, "process_start_time_seconds", "", \
      "When the process started, in seconds since 1970") \
    X(METRIC_PROCESS_CPU, counter, "process_cpu_seconds_total", "", "Processor time of all threads, user and system") \
    X(METRIC_PROCESS_RESIDENT, gauge, "process_resident_memory_bytes", "", "Resident memory") \
    X(METRIC_PROCESS_VIRTUAL, gauge, "process_virtual_memory_bytes", "", "Virtual memory") \
    X(METRIC_PROCESS_FILES, gauge, "process_open_fds", "", "Open file descriptors") \
    X(METRIC_PROCESS_FILES_MAX, gauge, "process_max_fds", "", "File descriptors that may be open")

enum metric { METRICS(NAMED_VALUE) METRIC_COUNT };

// How a chat or completion has ended.
#define METRIC_OUTCOMES(X) \
    X(OUTCOME_STOP, "stop") \
    X(OUTCOME_LENGTH, "length") \
    X(OUTCOME_ERROR, "error") \
    X(OUTCOME_REFUSED, "refused") \
    X(OUTCOME_CANCELLED, "cancelled")

enum metric_outcome { METRIC_OUTCOMES(NAMED_VALUE) OUTCOME_COUNT };

enum {
    METRIC_BUCKETS_MAX = 16,
    METRIC_STATUS_FIRST = 200,
    METRIC_STATUS_END = 600,
};

struct metrics {                                            // embedded; starts as zeros
    double values[METRIC_COUNT];                            // of a histogram: the sum
    uint64_t buckets[METRIC_COUNT][METRIC_BUCKETS_MAX + 1]; // of histograms, each for itself; the last: beyond all
    uint64_t generations[OUTCOME_COUNT];
    uint64_t requests[ENDPOINT_COUNT + 1][METRIC_STATUS_END - METRIC_STATUS_FIRST]; // the last: reached none
};

// endpoint NULL: none was reached.
void metrics_count_request(struct metrics *metrics, const struct endpoint *endpoint, int status);
void metrics_count_generation(struct metrics *metrics, enum metric_outcome outcome);
void metrics_add(struct metrics *metrics, enum metric id, double amount);
void metrics_set(struct metrics *metrics, enum metric id, double value);
void metrics_observe(struct metrics *metrics, enum metric id, double seconds, uint64_t times); // a histogram

// All of them in the text format of Prometheus, version 0.0.4.
void metrics_write(const struct metrics *metrics, const struct engine_info *info, struct buffer *out);

// The table for people: in lines of WRAP_COLUMNS.
void metrics_text(struct buffer *out);

#endif
