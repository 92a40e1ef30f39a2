#include "engine/speculate.h"

#include "base/smaller.h"

#include <math.h>

// ---- What steps take

enum {
    PLAIN_SEEN_MIN = 4,     // steps without guesses, before the first with some
    SHAPE_STEPS = 8,        // a shape is an average over about so many
    SHAPE_FRESH_STEPS = 4,  // it is learned only so soon after a plain step: later the pace may be another
    FORGOTTEN_STEPS = 512,  // what was not seen for so many is tried anew: once it may have been hindered
};
static const double PACE_PLAIN = 0.25;  // how quickly the pace follows steps without guesses
static const double PACE_OTHER = 0.125; // and those with some
static const double OUTLIER = 2;        // a step that took so many times what it should, is taken to be hindered

// What a row beyond the first takes, of a step, where nothing was seen: what is expected, and the most. Where something
// was, others are taken to go on like that (more experts are shared the more rows there are: it does not get worse),
// but at the least like this.
static const double SLOPE_EXPECTED = 0.5, SLOPE_MOST = 1, SLOPE_LEAST = 0.1;

static double slope_to(const struct step_costs *costs, int rows) {
    double slope = (costs->shape[rows] - 1) / (rows - 1);
    return slope > SLOPE_LEAST ? slope : SLOPE_LEAST;
}

// The shape of so many rows, seen or from those next to it. unseen: the slope where none was seen.
static double shape_of(const struct step_costs *costs, int rows, double unseen) {
    int below = rows, above = rows + 1;
    while (below > 1 && costs->seen[below] == 0) below--;
    if (below == 1) return 1 + unseen * (rows - 1);
    if (below == rows) return costs->shape[rows];
    while (above <= SPECULATE_ROWS_MAX && costs->seen[above] == 0) above++;
    double shape = costs->shape[below] + slope_to(costs, below) * (rows - below);
    return above <= SPECULATE_ROWS_MAX && costs->shape[above] < shape ? costs->shape[above] : shape;
}

// What a step of so many rows would take.
static double step_costs_seconds(const struct step_costs *costs, int rows) {
    return costs->pace * shape_of(costs, rows, SLOPE_EXPECTED);
}

static double seconds_at_most(const struct step_costs *costs, int rows) {
    return costs->pace * shape_of(costs, rows, SLOPE_MOST);
}

// More rows than one take no less than one, and no more than as many steps.
static double clamped(double shape, int rows) {
    return shape < 1 ? 1 : fmin(shape, rows);
}

static void learn_shape(struct step_costs *costs, int rows, double seconds) {
    double found = clamped(seconds / costs->pace, rows), known = costs->shape[rows];
    int steps = smaller(++costs->seen[rows], SHAPE_STEPS);
    costs->seen_at[rows] = costs->steps;
    if (steps > 1) found = fmin(found, known * OUTLIER);
    costs->shape[rows] += (found - known) / steps;
}

static void follow_pace(struct step_costs *costs, int rows, double seconds, double quickly) {
    double found = seconds / shape_of(costs, rows, SLOPE_EXPECTED);
    if (costs->pace == 0) costs->pace = found;
    costs->pace += (fmin(found, costs->pace * OUTLIER) - costs->pace) * quickly;
}

void step_costs_measured(struct step_costs *costs, int answers, int rows, double seconds) {
    if (rows > SPECULATE_ROWS_MAX || seconds <= 0) return;
    bool plain = rows == answers;
    costs->steps++;
    costs->since_plain = plain ? 0 : costs->since_plain + 1;
    for (int i = 2; i <= SPECULATE_ROWS_MAX; i++)
        if (costs->steps - costs->seen_at[i] > FORGOTTEN_STEPS) costs->seen[i] = 0;
    if (plain || costs->seen[rows] > 0) follow_pace(costs, rows, seconds, plain ? PACE_PLAIN : PACE_OTHER);
    if (rows == 1)
        costs->seen[1]++;
    else if (costs->since_plain <= SHAPE_FRESH_STEPS)
        learn_shape(costs, rows, seconds);
}

// The most rows that a step may have with so many answers: a guess for each, or twice the guesses of the widest that
// was seen.
static int rows_to_try(const struct step_costs *costs, int answers) {
    int widest = SPECULATE_ROWS_MAX;
    while (widest > answers && costs->seen[widest] == 0) widest--;
    int guesses = 2 * (widest - answers) > answers ? 2 * (widest - answers) : answers;
    return smaller(answers + guesses, SPECULATE_ROWS_MAX);
}

// ---- One answer

// Matches of up to so many tokens are in the class, and the share of right guesses that is assumed of it until there
// are some: as if ASSUMED_TRIES had been made.
static const struct {
    int longest;
    double right;
} LENGTHS[SPECULATE_LENGTHS] = {{2, 0.25}, {3, 0.35}, {5, 0.5}, {9, 0.7}, {INT32_MAX, 0.85}};
enum { ASSUMED_TRIES = 2, TRIES_MAX = 32 };

int speculator_init(struct speculator *speculator, size_t capacity, struct error *error) {
    *speculator = (struct speculator){0};
    for (int i = 0; i < SPECULATE_LENGTHS; i++) {
        speculator->tried[i] = ASSUMED_TRIES;
        speculator->right[i] = ASSUMED_TRIES * LENGTHS[i].right;
    }
    return capacity > 0 ? lookup_create(&speculator->lookup, capacity, error) : 0;
}

void speculator_finish(struct speculator *speculator) {
    lookup_destroy(speculator->lookup);
    *speculator = (struct speculator){0};
}

static int length_class(int matched) {
    int class = 0;
    while (matched > LENGTHS[class].longest) class++;
    return class;
}

void speculator_saw(struct speculator *speculator, int32_t token) {
    int32_t guess;
    speculator->told++;
    if (!speculator->lookup) return;
    if (lookup_guess(speculator->lookup, &guess, 1)) {
        int class = length_class(speculator->lookup->matched);
        double *right = &speculator->right[class], *tried = &speculator->tried[class];
        *right += guess == token;
        if ((*tried += 1) > TRIES_MAX) {
            *right /= 2;
            *tried /= 2;
        }
    }
    lookup_add(speculator->lookup, token);
}

void speculator_waits(struct speculator *speculator, double seconds) {
    speculator->account_seconds += SPECULATE_COST_MAX * seconds;
    speculator->told = 0;
}

void speculator_pays(struct speculator *speculator, const struct step_costs *costs, int answers, double seconds) {
    double plain = step_costs_seconds(costs, answers);
    speculator->account_seconds += speculator->told * plain * (1 + SPECULATE_COST_MAX) - seconds;
    speculator->account_seconds = fmin(speculator->account_seconds, SPECULATE_SAVED_STEPS_MAX * plain);
    speculator->told = 0;
}

// ---- A step

static const double ABOUT_AS_PROMISING = 0.8; // as the most promising guess

// How likely it is that guess number `number`, from 0, is right if those before it are.
static double chance(const struct speculator *speculator, int number) {
    int class = length_class(speculator->lookup->matched + number);
    return speculator->right[class] / speculator->tried[class];
}

// Whose next guess comes next, and how likely that is to be of use; -1: nobody may guess more. Of those whose guesses
// are about as promising, the one with the fewest so far, then the one with the least in its account: who has waited
// for others goes first.
static int next_to_guess(struct speculator *const *running, const int *most, const double *reached, int count,
                         double *promise) {
    double promises[SPECULATE_ROWS_MAX], best_promise = 0;
    int best = -1;
    for (int i = 0; i < count; i++) {
        promises[i] = running[i]->guesses < most[i] ? reached[i] * chance(running[i], running[i]->guesses) : 0;
        if (promises[i] > best_promise) best_promise = promises[i];
    }
    for (int i = 0; i < count; i++) {
        const struct speculator *one = running[i], *other = best >= 0 ? running[best] : NULL;
        if (promises[i] == 0 || promises[i] < ABOUT_AS_PROMISING * best_promise) continue;
        if (other && one->guesses > other->guesses) continue;
        if (other && one->guesses == other->guesses && one->account_seconds >= other->account_seconds) continue;
        best = i;
        *promise = promises[i];
    }
    return best;
}

static double least_account(struct speculator *const *running, int count) {
    double least = INFINITY;
    for (int i = 0; i < count; i++) least = fmin(least, running[i]->account_seconds);
    return least;
}

int speculate_plan(const struct step_costs *costs, struct speculator *const *running, const int *room, int count) {
    int most[SPECULATE_ROWS_MAX], order[SPECULATE_ROWS_MAX], wanted = 0;
    double reached[SPECULATE_ROWS_MAX]; // how likely all guesses so far are right
    for (int i = 0; i < count; i++) running[i]->guesses = 0;
    if (count == 0 || count >= SPECULATE_ROWS_MAX || costs->seen[count] < PLAIN_SEEN_MIN ||
        costs->since_plain >= SPECULATE_REFRESH_STEPS)
        return 0;

    for (int i = 0; i < count; i++) {
        struct speculator *one = running[i];
        int guesses = smaller(room[i], SPECULATE_ROWS_MAX - count);
        most[i] = one->lookup && guesses > 0 ? lookup_guess(one->lookup, one->guess, guesses) : 0;
        reached[i] = 1;
    }
    double plain = step_costs_seconds(costs, count), account = least_account(running, count);
    double best = SPECULATE_GAIN_MIN * count / plain, tokens = count;
    int rows_max = rows_to_try(costs, count);
    for (int rows = count + 1; rows <= rows_max; rows++) {
        double promise = 0;
        int next = next_to_guess(running, most, reached, count, &promise);
        if (next < 0) break;
        order[rows - count - 1] = next;
        running[next]->guesses++;
        reached[next] = promise;
        tokens += promise;
        if (seconds_at_most(costs, rows) - plain > account) continue;
        double rate = tokens / step_costs_seconds(costs, rows);
        if (rate <= best) continue;
        best = rate;
        wanted = rows - count;
    }
    for (int i = 0; i < count; i++) running[i]->guesses = 0;
    for (int i = 0; i < wanted; i++) running[order[i]]->guesses++;
    return wanted;
}
