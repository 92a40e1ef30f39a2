"""The official openai package against the running server."""
import asyncio
import json
import re
import threading

import openai
import pytest

import tandem
from conftest import client_of

MODEL = tandem.MODEL.name
STORY = [{"role": "user", "content": "Tell me a short story."}]


def vocabulary():
    return json.loads((tandem.MODEL / "tokenizer.json").read_text())["model"]["vocab"]


def ask(client, **options):
    options = {"model": MODEL, "messages": STORY, "max_tokens": 24, "temperature": 0, **options}
    return client.chat.completions.create(**options)


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == MODEL and client.models.retrieve(MODEL) == model


def test_chat(client):
    answer = ask(client)
    assert answer.choices[0].message.content and answer.choices[0].message.role == "assistant"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


def test_an_answer_is_cancelled(client, server):
    """From elsewhere, by the id that its stream tells, while its reader has stopped reading; it ends with an error."""
    connection, start = server.open_stream(receive_bytes=2048, max_tokens=200, ignore_eos=True, logprobs=True,
                                           top_logprobs=20)
    while not (told := re.search(rb'"id":"(chatcmpl-[^"]+)"', start)):
        start += connection.recv(256)
    name = told.group(1).decode()
    gone = client.chat.completions.delete(name)
    assert gone.deleted and gone.id == name and gone.object == "chat.completion.deleted"
    with connection:
        while not start.endswith(b"\r\n0\r\n\r\n") and (more := connection.recv(65536)):
            start += more
    assert b"request_cancelled" in start and b"DELETE" in start, start[-500:]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.delete(name)


def test_system_prompt_and_history(client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"},
                {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Who are you?"}]
    assert ask(client, messages=messages).usage.prompt_tokens > ask(client, messages=messages[-1:]).usage.prompt_tokens


def test_content_in_parts(client):
    """Parts are lines of one text."""
    parts = [{"type": "text", "text": "Tell me"}, {"type": "text", "text": "a short story."}]
    lines = ask(client, messages=[{"role": "user", "content": "Tell me\na short story."}])
    assert ask(client, messages=[{"role": "user", "content": parts}]).choices[0].message.content == \
        lines.choices[0].message.content


@pytest.mark.parametrize("temperature", [0, 1])
def test_stream_equals_whole(client, temperature):
    whole = ask(client, temperature=temperature, seed=7, max_tokens=60)
    stream = list(ask(client, temperature=temperature, seed=7, max_tokens=60, stream=True,
                      stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == \
        whole.choices[0].message.content
    told = [usage.model_dump(exclude={"completion_tokens_details"}) for usage in (stream[-1].usage, whole.usage)]
    assert told[0] == told[1]  # how many tokens were guessed depends on the machine's speed
    assert stream[-2].choices[0].finish_reason == whole.choices[0].finish_reason


@pytest.mark.parametrize("temperature", [0, 1])
def test_predictions_change_no_answer(client, temperature):
    """Right, wrong, or of something else: the answer stays, streamed or whole, and guesses are told."""
    options = {"temperature": temperature, "seed": 3, "max_tokens": 120, "logprobs": True}
    plain = ask(client, **options)
    text = plain.choices[0].message.content
    for content in (text, text.replace("a", "o"), "Something else. " * 20, ""):
        for stream in (False, True):
            answer = ask(client, prediction={"type": "content", "content": content}, stream=stream, **options)
            if stream:
                chunks = [chunk.choices[0] for chunk in answer]
                assert "".join(chunk.delta.content or "" for chunk in chunks) == text
                told = [entry for chunk in chunks if chunk.logprobs for entry in chunk.logprobs.content]
                assert told == plain.choices[0].logprobs.content
            else:
                assert answer.choices == plain.choices
                details = answer.usage.completion_tokens_details
                assert 0 <= details.accepted_prediction_tokens < answer.usage.completion_tokens
                assert details.rejected_prediction_tokens >= 0


def test_a_prediction_is_refused(client):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, prediction={"type": "content", "content": "word " * 20000})
    assert refused.value.param == "prediction"


def test_stream_helper(client):
    with client.chat.completions.stream(model=MODEL, messages=STORY, max_tokens=24, temperature=0) as stream:
        for _ in stream:
            pass
        final = stream.current_completion_snapshot
    assert final.choices[0].message.content == ask(client).choices[0].message.content
    assert final.choices[0].message.role == "assistant"


def test_n(client):
    both = ask(client, n=2, temperature=1, seed=3)
    assert [choice.index for choice in both.choices] == [0, 1]
    again = ask(client, n=2, temperature=1, seed=3)
    assert [choice.message.content for choice in again.choices] == [choice.message.content for choice in both.choices]
    parts = ["", ""]
    for chunk in ask(client, n=2, temperature=1, seed=3, stream=True):
        for choice in chunk.choices:
            parts[choice.index] += choice.delta.content or ""
    assert parts == [choice.message.content for choice in both.choices]
    assert both.usage.completion_tokens > ask(client, temperature=1, seed=3).usage.completion_tokens


def test_seed(client):
    texts = [ask(client, temperature=1.5, seed=seed, max_tokens=40).choices[0].message.content for seed in (1, 1, 2, 3, 4)]
    assert texts[0] == texts[1] and len(set(texts)) > 1


def test_logprobs(client):
    answer = ask(client, logprobs=True, top_logprobs=3, max_tokens=8)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    for entry in entries:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == 3
        top = [alternative.logprob for alternative in entry.top_logprobs]
        assert top == sorted(top, reverse=True) and entry.logprob == top[0]  # greedy takes the likeliest
        assert bytes(entry.bytes).decode(errors="replace") == entry.token or "\ufffd" in entry.token
    said = b"".join(bytes(entry.bytes) for entry in entries).decode()
    assert said.strip() == answer.choices[0].message.content.strip()


def test_logprobs_stream(client):
    whole = ask(client, logprobs=True, max_tokens=8).choices[0].logprobs.content
    streamed = [entry for chunk in ask(client, logprobs=True, max_tokens=8, stream=True) for choice in chunk.choices
                if choice.logprobs for entry in choice.logprobs.content]
    assert streamed == whole


@pytest.mark.parametrize("stream", [False, True])
def test_stop(client, stream):
    text = ask(client, max_tokens=40).choices[0].message.content
    stop = text[len(text) // 2:][:3]
    answer = ask(client, max_tokens=40, stop=[stop, "never to be seen"], stream=stream)
    if stream:
        chunks = list(answer)
        got, finish = "".join(chunk.choices[0].delta.content or "" for chunk in chunks), chunks[-1].choices[0].finish_reason
    else:
        got, finish = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert got == text[:text.index(stop)] and finish == "stop"


def test_max_tokens(client):
    for options in ({"max_tokens": 5}, {"max_tokens": openai.omit, "max_completion_tokens": 5}):
        answer = ask(client, extra_body={"ignore_eos": True}, **options)
        assert answer.usage.completion_tokens == 5 and answer.choices[0].finish_reason == "length"


def test_logit_bias(client):
    """100 forces a token, -100 rules it out; both by its id."""
    options = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 3, "temperature": 0}
    the = vocabulary()["\u2581the"]
    assert client.completions.create(**options, logit_bias={str(the): 100}).choices[0].text == " the the the"
    plain = client.completions.create(**options, logprobs=0).choices[0]
    first = vocabulary()[plain.logprobs.tokens[0].replace(" ", "\u2581")]
    without = client.completions.create(**options, logit_bias={str(first): -100}).choices[0]
    assert without.text and not without.text.startswith(plain.logprobs.tokens[0])


def test_completions(client):
    answer = client.completions.create(model=MODEL, prompt=["Once", "Hello"], max_tokens=4, temperature=0, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == answer.choices[1].text


def test_completions_stream(client):
    options = {"model": MODEL, "prompt": "Once upon", "max_tokens": 16, "temperature": 0}
    whole = client.completions.create(**options).choices[0].text
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(stream=True, **options)) == whole


def test_completions_echo_logprobs(client):
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=1, echo=True, logprobs=1,
                                       temperature=0)
    choice = answer.choices[0]
    assert choice.text.startswith("Once upon a time")
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == answer.usage.total_tokens
    assert choice.logprobs.token_logprobs[0] is None and all(p <= 0 for p in choice.logprobs.token_logprobs[1:])


def test_completions_of_token_ids(client):
    options = {"model": MODEL, "max_tokens": 8, "temperature": 0}
    by_ids = client.completions.create(prompt=[[vocabulary()["\u2581the"]]], **options)
    by_text = client.completions.create(prompt="the", **options)
    assert by_ids.usage.prompt_tokens == by_text.usage.prompt_tokens == 1
    assert by_ids.choices[0].text == by_text.choices[0].text


@pytest.mark.parametrize("options, name", [
    ({"temperature": 3}, "temperature"), ({"top_p": 2}, "top_p"), ({"n": 0}, "n"), ({"max_tokens": -5}, "max_tokens"),
    ({"stop": ["a"] * 5}, "stop"), ({"presence_penalty": 9}, "presence_penalty"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logit_bias": {"99999999": 1}}, "logit_bias"), ({"messages": []}, "messages"), ({"extra_body": {"no_such_thing": 1}}, "no_such_thing"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"), ({"messages": [{"role": "judge", "content": "x"}]}, "messages")])
def test_bad_parameters_are_named(client, options, name):
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, **options)
    assert raised.value.status_code == 400 and raised.value.type == "invalid_request_error"
    assert name in (raised.value.param or "") and name in raised.value.message


def test_parameters_without_effect(client):
    plain = ask(client).choices[0].message.content
    assert ask(client, user="me", metadata={"a": "b"}, store=False, service_tier="auto").choices[0].message.content == plain


def test_too_long(client):
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, max_tokens=10_000_000)
    assert raised.value.code == "context_length_exceeded" and "10000000" in raised.value.message
    assert raised.value.param == "messages"
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model=MODEL, prompt="a", max_tokens=10_000_000)
    assert raised.value.param == "prompt" and raised.value.body["message"].startswith("The prompt has ")


def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as raised:
        ask(client, model="gpt-unheard-of")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-unheard-of")


def test_async(server, client):
    whole = ask(client).choices[0].message.content

    async def several():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as own:
            async def streamed():
                chunks = await ask(own, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

            async def at_once():
                return (await ask(own)).choices[0].message.content

            return await asyncio.gather(*(streamed() if i % 2 else at_once() for i in range(8)))

    assert asyncio.run(several()) == [whole] * 8


def test_timeout(serve):
    """The request is in the queue behind a held slot when its client's patience ends; then its place is free."""
    server = serve("--max-sequences", "1")
    holder = server.held_stream()
    with pytest.raises(openai.APITimeoutError):
        ask(client_of(server, timeout=1))
    server.wait_for_waiting(0)
    holder.close()
    assert ask(client_of(server)).choices[0].message.content


def test_async_errors_and_cancelling(serve):
    """One slot: a cancelled task gives it back, and errors come as the package's own classes."""
    server = serve("--max-sequences", "1")

    async def long_answer(own, stream):
        answer = await ask(own, max_tokens=1500, extra_body={"ignore_eos": True}, stream=stream)
        if stream:
            async for _ in answer:
                pass

    async def tries():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as own:
            with pytest.raises(openai.BadRequestError):
                await ask(own, temperature=3)
            for stream in (False, True):
                long = asyncio.create_task(long_answer(own, stream))
                while server.health()["running"] == 0:
                    await asyncio.sleep(0.01)
                long.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await long
            return await ask(own)

    assert asyncio.run(tries()).choices[0].message.content
    server.wait_for_idle()


def test_error_in_mid_stream(serve):
    """A server that is told to stop, and not to wait, ends its streams with an error that the package raises."""
    server = serve("--drain-seconds", "0")
    stream = ask(client_of(server), max_tokens=1500, stream=True, extra_body={"ignore_eos": True})
    with pytest.raises(openai.APIError) as raised:
        for number, _ in enumerate(stream):
            if number == 0:
                server.process.terminate()
    assert "shutting down" in raised.value.message
    assert server.wait() == 0


def test_cancelled_stream(server, client):
    whole = ask(client, max_tokens=60).choices[0].message.content
    for _ in range(20):
        stream = ask(client, max_tokens=200, stream=True)
        next(iter(stream))
        stream.close()
    assert ask(client, max_tokens=60).choices[0].message.content == whole


def test_retries(serve):
    """A full server answers 429; the package comes back by itself and is served once there is room."""
    server = serve("--max-sequences", "1", "--queue", "1")
    holder = server.held_stream()
    waiting = server.connect()  # takes the only place in the queue
    waiting.sendall(tandem.http_post("/v1/chat/completions", tandem.chat("Hello!")))
    server.wait_for_waiting(1)
    with pytest.raises(openai.RateLimitError) as raised:
        ask(client_of(server))
    assert float(raised.value.response.headers["retry-after"]) > 0
    answers = []
    patient = threading.Thread(target=lambda: answers.append(ask(client_of(server, max_retries=20))))
    patient.start()
    holder.close()
    patient.join(tandem.PATIENCE_S)
    assert answers and answers[0].choices[0].message.content
    assert tandem.read_answer(waiting)[0] == 200
