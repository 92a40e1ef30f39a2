// What tandem generate --json prints.
#ifndef CLI_GENERATE_JSON_H
#define CLI_GENERATE_JSON_H

#include "base/buffer.h"
#include "cli/answer.h"

// One token as an object, in the form of OpenAI's chat log-probabilities, with its id.
void generate_json_token(struct buffer *out, const struct engine *engine, const struct engine_token *token);

struct generate_report {
    const struct engine *engine;
    const struct engine_request *request;
    const struct answer *answer;
    const struct buffer *text, *tokens; // tokens: objects with commas in between
};

// The whole object and a line end.
void generate_json(struct buffer *out, const struct generate_report *report);

#endif
