#include "engine/scheduler.h"

#include "base/smaller.h"

#include <math.h>

static bool prefills(const struct scheduler_sequence *sequence) {
    return !sequence->paused && sequence->prompt_left > 0;
}

// How many more rows a sequence of a step in which it has `rows` could have, of so many that are left.
static int more(const struct scheduler_sequence *sequence, int rows, int left) {
    size_t rest = sequence->prompt_left - (size_t)rows;
    if (rest < (size_t)left) left = (int)rest;
    return sequence->rows_max > 0 ? smaller(left, sequence->rows_max - rows) : left;
}

// The first prompt at or behind the turn, going round; count when there is none.
static size_t whose_turn(const struct scheduler *scheduler, const struct scheduler_sequence *sequences, size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t at = (scheduler->turn % count + i) % count;
        if (prefills(&sequences[at])) return at;
    }
    return count;
}

// Whether a prompt comes before another: the client's who needs less, and of his the shorter one.
static bool goes_before(const struct scheduler_sequence *a, const struct scheduler_sequence *b) {
    return a->client_left != b->client_left ? a->client_left < b->client_left : a->prompt_left < b->prompt_left;
}

// Of the prompts that could have more rows, the one that comes first; count when there is none.
static size_t next_to_go(const struct scheduler_sequence *sequences, size_t count, const int *rows) {
    size_t best = count;
    for (size_t i = 0; i < count; i++) {
        if (!prefills(&sequences[i]) || more(&sequences[i], rows[i], 1) == 0) continue;
        if (best == count || goes_before(&sequences[i], &sequences[best])) best = i;
    }
    return best;
}

static int chunk_of(const struct scheduler *scheduler, bool decodes) {
    int most = scheduler->prefill_tokens_max;
    if (!decodes || scheduler->step_target_seconds <= 0) return most;
    return scheduler->chunk > SCHEDULER_CHUNK_MIN ? smaller((int)scheduler->chunk, most)
                                                  : smaller(SCHEDULER_CHUNK_MIN, most);
}

// Deals the chunk out; returns how much of it was used.
static int deal(struct scheduler *scheduler, const struct scheduler_sequence *sequences, size_t count, int chunk,
                int *rows) {
    size_t at = whose_turn(scheduler, sequences, count);
    int left = chunk, share = chunk / SCHEDULER_TURN_SHARE;
    if (at < count) {
        scheduler->planned_turn = at + 1;
        rows[at] = more(&sequences[at], 0, share > 0 ? share : 1);
        left -= rows[at];
    }
    while (left > 0 && (at = next_to_go(sequences, count, rows)) < count) {
        int some = more(&sequences[at], rows[at], left);
        rows[at] += some;
        left -= some;
    }
    return chunk - left;
}

// Whether what is left of a prompt is computed in this step, too, because there is room for all of it.
static bool joins(const struct scheduler *scheduler, const struct scheduler_sequence *sequence, int rows, int room) {
    return prefills(sequence) && sequence->rows_max == 0 && sequence->prompt_left > (size_t)rows &&
           sequence->prompt_left <= (size_t)scheduler->prefill_tokens_max &&
           sequence->prompt_left - (size_t)rows <= (size_t)room;
}

// Completes prompts, in the same order; returns how much of the room was used.
static int deal_whole(const struct scheduler *scheduler, const struct scheduler_sequence *sequences, size_t count,
                      int room, int *rows) {
    int left = room;
    for (size_t best = 0; best < count;) {
        best = count;
        for (size_t i = 0; i < count; i++)
            if (joins(scheduler, &sequences[i], rows[i], left) &&
                (best == count || goes_before(&sequences[i], &sequences[best])))
                best = i;
        if (best == count) break;
        left -= (int)sequences[best].prompt_left - rows[best];
        rows[best] = (int)sequences[best].prompt_left;
    }
    return room - left;
}

int scheduler_rows_max(int prefill_tokens_max) {
    int together = prefill_tokens_max < SCHEDULER_TOGETHER_ROWS_MAX / SCHEDULER_TOGETHER
                       ? prefill_tokens_max * SCHEDULER_TOGETHER
                       : SCHEDULER_TOGETHER_ROWS_MAX;
    return together > prefill_tokens_max ? together : prefill_tokens_max;
}

// Rows of prompts that go together: as many as the known step says take no longer than they may. It is not to be taken
// at a row's price: with 64 rows that is two to four times what it is with 2,048, and few would ever go together.
static int rows_together(const struct scheduler *scheduler) {
    int most = scheduler_rows_max(scheduler->prefill_tokens_max), least = scheduler->prefill_tokens_max;
    if (scheduler->alone_rows == 0) return least;
    double times = pow(SCHEDULER_TOGETHER_SECONDS / scheduler->alone_seconds, 1 / SCHEDULER_ROWS_EXPONENT);
    double rows = times * scheduler->alone_rows;
    return rows >= most ? most : rows <= least ? least : (int)rows;
}

int scheduler_next(struct scheduler *scheduler, const struct scheduler_sequence *sequences, size_t count, int *rows) {
    int decoding = 0;
    for (size_t i = 0; i < count; i++) {
        rows[i] = !sequences[i].paused && sequences[i].prompt_left == 0;
        decoding += rows[i];
    }
    scheduler->planned_alone = decoding == 0;
    scheduler->planned_turn = scheduler->turn;
    scheduler->planned = deal(scheduler, sequences, count, chunk_of(scheduler, decoding > 0), rows);
    if (decoding == 0)
        scheduler->planned +=
            deal_whole(scheduler, sequences, count, rows_together(scheduler) - scheduler->planned, rows);
    return decoding + scheduler->planned;
}

// The known step may have been held up by something else, a process that was stopped: so there is a bound beside.
double scheduler_patience(const struct scheduler *scheduler, double since_first, double since_last) {
    if (!scheduler->planned_alone || scheduler->alone_rows == 0) return 0;
    if (scheduler->planned >= rows_together(scheduler)) return 0;
    double times = pow((double)scheduler->planned / scheduler->alone_rows, SCHEDULER_ROWS_EXPONENT);
    double seconds = times * scheduler->alone_seconds;
    double whole = fmin(SCHEDULER_WAIT_SHARE * seconds, SCHEDULER_WAIT_SECONDS_MAX) - since_first;
    return fmax(0, fmin(whole, SCHEDULER_GAP_SHARE * seconds - since_last));
}

// A step of more rows tells more, for a row costs less in it. One of fewer rows is news where the larger one does not
// explain it: it took longer, or less for each row.
static void measured_alone(struct scheduler *scheduler, double seconds) {
    double rows = scheduler->planned, known_rows = scheduler->alone_rows, known = scheduler->alone_seconds;
    if (rows < known_rows && seconds < known && seconds * known_rows > known * rows) return;
    scheduler->alone_rows = scheduler->planned;
    scheduler->alone_seconds = seconds;
}

// The time of a step grows with its chunk, but not from nothing: t = a + b · chunk. From any chunk, chunk · target / t
// lies nearer to the one that takes as long as the target, on the same side of it; so the chunk settles there. It grows
// by no more than twice at once, and only by steps that used all of it.
void scheduler_measured(struct scheduler *scheduler, double seconds) {
    double target = scheduler->step_target_seconds;
    scheduler->turn = scheduler->planned_turn;
    if (scheduler->planned_alone && scheduler->planned > 0 && seconds > 0) measured_alone(scheduler, seconds);
    if (target <= 0 || scheduler->planned == 0 || seconds <= 0) return;
    double chunk = scheduler->chunk > SCHEDULER_CHUNK_MIN ? scheduler->chunk : SCHEDULER_CHUNK_MIN;
    double wanted = scheduler->planned * target / seconds, most = scheduler->prefill_tokens_max;
    if (seconds <= target && scheduler->planned < (int)chunk) return;
    if (seconds > target ? wanted > chunk : wanted < chunk) return;
    scheduler->chunk = wanted > 2 * chunk ? 2 * chunk : wanted;
    if (scheduler->chunk > most) scheduler->chunk = most;
}
