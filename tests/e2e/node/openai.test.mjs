// The official openai package for Node against the running server. test_node.py starts it, with the servers' addresses
// in TANDEM_URL (left as it was found) and TANDEM_SMALL_URL (one place to decode, one to wait).
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';

const model = process.env.TANDEM_MODEL;
const messages = [{ role: 'user', content: 'Tell me a short story.' }];
const connect = (options) => new OpenAI({ baseURL: `${process.env.TANDEM_URL}/v1`, apiKey: 'none', maxRetries: 0, ...options });
const client = connect();

const ask = (options, request) =>
  client.chat.completions.create({ model, messages, max_tokens: 24, temperature: 0, ...options }, request);

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const textOf = (chunks, index = 0) =>
  chunks
    .flatMap((chunk) => chunk.choices)
    .filter((choice) => choice.index === index)
    .map((choice) => choice.delta.content ?? '')
    .join('');

test('models', async () => {
  const page = await client.models.list();
  assert.deepEqual(page.data.map((each) => each.id), [model]);
  assert.deepEqual(await client.models.retrieve(model), page.data[0]);
  const listed = [];
  for await (const each of client.models.list()) listed.push(each.id);
  assert.deepEqual(listed, [model]);
});

test('chat', async () => {
  const { data: answer, request_id, response } = await ask().withResponse();
  assert.equal(answer.object, 'chat.completion');
  assert.equal(answer.choices[0].message.role, 'assistant');
  assert.ok(answer.choices[0].message.content);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  assert.ok(request_id && request_id === response.headers.get('x-request-id') && request_id === answer._request_id);
});

test('a conversation in roles and parts', async () => {
  const history = [
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: [{ type: 'text', text: 'Hello!' }] },
    (await ask({ messages: [{ role: 'user', content: 'Hello!' }] })).choices[0].message, // as it came
    { role: 'user', content: 'Who are you?' },
  ];
  const answer = await ask({ messages: history });
  assert.ok(answer.usage.prompt_tokens > (await ask({ messages: history.slice(-1) })).usage.prompt_tokens);
});

test('stream', async () => {
  const whole = await ask();
  const stream = await ask({ stream: true });
  const chunks = await collect(stream);
  assert.equal(textOf(chunks), whole.choices[0].message.content);
  assert.equal(chunks.filter((chunk) => chunk.choices[0].delta.role).length, 1);
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
  assert.deepEqual(
    chunks.map((chunk) => chunk.choices[0].finish_reason).filter((reason) => reason !== null),
    [whole.choices[0].finish_reason],
  );
});

test('stream with usage', async () => {
  const chunks = await collect(await ask({ stream: true, stream_options: { include_usage: true } }));
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  const counts = ({ completion_tokens_details: guesses, ...usage }) => usage; // guesses depend on the machine's speed
  assert.deepEqual(counts(last.usage), counts((await ask()).usage));
  assert.ok(chunks.every((chunk) => chunk.usage === null));
});

test('stream helper', async () => {
  const events = [];
  const stream = client.chat.completions
    .stream({ model, messages, max_tokens: 24, temperature: 0 })
    .on('content', (delta) => events.push(delta));
  const final = await stream.finalChatCompletion();
  const whole = await ask();
  assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
  assert.equal(final.choices[0].finish_reason, whole.choices[0].finish_reason);
  assert.equal(events.join(''), whole.choices[0].message.content);
});

test('n', async () => {
  const both = await ask({ n: 2, temperature: 1, seed: 3 });
  assert.deepEqual(both.choices.map((choice) => choice.index), [0, 1]);
  const chunks = await collect(await ask({ n: 2, temperature: 1, seed: 3, stream: true }));
  for (const choice of both.choices) assert.equal(textOf(chunks, choice.index), choice.message.content);
});

test('logprobs', async () => {
  const whole = await ask({ logprobs: true, top_logprobs: 3, max_tokens: 8 });
  const entries = whole.choices[0].logprobs.content;
  assert.equal(entries.length, whole.usage.completion_tokens);
  for (const entry of entries) {
    assert.equal(entry.top_logprobs.length, 3);
    assert.equal(entry.logprob, entry.top_logprobs[0].logprob); // greedy takes the likeliest
  }
  const said = new TextDecoder().decode(Uint8Array.from(entries.flatMap((entry) => entry.bytes)));
  assert.equal(said.trim(), whole.choices[0].message.content.trim());
  const chunks = await collect(await ask({ logprobs: true, top_logprobs: 3, max_tokens: 8, stream: true }));
  assert.deepEqual(chunks.flatMap((chunk) => chunk.choices[0].logprobs?.content ?? []), entries);
});

test('stop', async () => {
  const text = (await ask({ max_tokens: 40 })).choices[0].message.content;
  const middle = Math.floor(text.length / 2);
  const stop = text.slice(middle, middle + 3);
  const [choice] = (await ask({ max_tokens: 40, stop: [stop] })).choices;
  assert.equal(choice.message.content, text.slice(0, text.indexOf(stop)));
  assert.equal(choice.finish_reason, 'stop');
});

test('completions', async () => {
  const body = { model, prompt: 'Once upon a time', max_tokens: 8, temperature: 0 };
  const whole = await client.completions.create(body);
  assert.equal(whole.object, 'text_completion');
  const chunks = await collect(await client.completions.create({ ...body, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), whole.choices[0].text);
  const echoed = await client.completions.create({ ...body, echo: true, logprobs: 2 });
  assert.equal(echoed.choices[0].text, body.prompt + whole.choices[0].text);
  assert.equal(echoed.choices[0].logprobs.tokens.length, echoed.usage.total_tokens);
});

test('errors as classes', async () => {
  const wrong = await ask({ temperature: 3 }).catch((error) => error);
  assert.ok(wrong instanceof OpenAI.BadRequestError);
  assert.equal(wrong.status, 400);
  assert.equal(wrong.param, 'temperature');
  assert.equal(wrong.type, 'invalid_request_error');
  assert.ok(wrong.requestID);
  await assert.rejects(ask({ model: 'other' }), (error) => error instanceof OpenAI.NotFoundError && error.code === 'model_not_found');
  await assert.rejects(client.models.retrieve('other'), OpenAI.NotFoundError);
  await assert.rejects(ask({ response_format: { type: 'json_object' } }), (error) => error.param === 'response_format');
  const words = [{ role: 'user', content: 'word '.repeat(20000) }];
  await assert.rejects(ask({ messages: words }), (error) => error.code === 'context_length_exceeded');
  await assert.rejects(connect({ baseURL: 'http://127.0.0.1:1/v1' }).models.list(), OpenAI.APIConnectionError);
});

test('abort in mid-stream', async () => {
  const before = textOf(await collect(await ask({ stream: true })));
  for (const end of ['controller', 'break']) {
    const stream = await ask({ stream: true, max_tokens: 1500, ignore_eos: true });
    let seen = 0;
    for await (const chunk of stream) {
      assert.ok(chunk.id);
      if (++seen < 5) continue;
      if (end === 'break') break;
      stream.controller.abort();
    }
    assert.ok(seen >= 5 && seen < 1500);
  }
  assert.equal(textOf(await collect(await ask({ stream: true }))), before);
});

test('abort by a signal, and a time limit', async () => {
  const long = { max_tokens: 1500, ignore_eos: true };
  const abort = new AbortController();
  const waiting = ask(long, { signal: abort.signal });
  setTimeout(() => abort.abort(), 50);
  await assert.rejects(waiting, OpenAI.APIUserAbortError);
  await assert.rejects(ask(long, { timeout: 50 }), OpenAI.APIConnectionTimeoutError);
});

test('retries while the server is full', async () => {
  let requests = 0;
  const counted = (...given) => (requests++, fetch(...given));
  const small = connect({ baseURL: `${process.env.TANDEM_SMALL_URL}/v1`, fetch: counted });
  const long = { model, messages, temperature: 1, seed: 5, max_tokens: 1500, ignore_eos: true, stream: true };
  // Nobody reads them: the first keeps its place, the second waits for it.
  const holder = await small.chat.completions.create({ ...long, logprobs: true, top_logprobs: 20 });
  const leave = new AbortController();
  const queued = small.chat.completions.create(long, { signal: leave.signal }).catch((error) => error);
  const health = async () => (await fetch(`${process.env.TANDEM_SMALL_URL}/health`)).json();
  while ((await health()).waiting < 1) await new Promise((wake) => setTimeout(wake, 10));
  const body = { model, messages, max_tokens: 4 };
  const refused = await small.chat.completions.create(body).catch((error) => error);
  assert.ok(refused instanceof OpenAI.RateLimitError);
  assert.ok(Number(refused.headers.get('retry-after')) > 0);

  requests = 0;
  const patient = small.chat.completions.create(body, { maxRetries: 20 });
  while (requests < 2) await new Promise((wake) => setTimeout(wake, 10));
  holder.controller.abort();
  leave.abort();
  assert.ok((await patient).choices[0].message.content);
  assert.ok((await queued) instanceof OpenAI.APIUserAbortError);
});
