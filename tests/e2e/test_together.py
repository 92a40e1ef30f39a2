"""Many requests at once: each gets the answer it would get alone, whatever its neighbours do."""
import concurrent.futures
import json

import pytest

import tandem

PROMPTS = ["Tell me a short story.", "Hello!", "What is the capital of France?", "Who are you?",
           "Tell me a story about a cat.", "What is 2 plus 3?", "Name a colour.", "Good night."]


def stream_text(server, text, **options):
    connection, stream = server.open_stream(text, **options)
    stream += tandem.read_all_of_answer(connection, stream)
    chunks, done = tandem.events(tandem.body_of(stream))
    assert done, stream
    return tandem.text_of(chunks)


def jobs():
    """16 different requests, half of them streamed."""
    for number in range(16):
        options = {"seed": number, "temperature": (0, 1)[number // 2 % 2], "max_tokens": 40 + number}
        yield (stream_text if number % 2 else tandem.Server.say), PROMPTS[number // 2], options


def test_sixteen_at_once(server):
    alone = [call(server, text, **options) for call, text, options in jobs()]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in range(3):
            together = [pool.submit(call, server, text, **options) for call, text, options in jobs()]
            assert [future.result() for future in together] == alone


def test_leaving_harms_nobody(server):
    """Clients leave while queued, in prefill and in decode, streaming or not; those that stay notice nothing."""
    alone = [call(server, text, **options) for call, text, options in jobs()]
    long = "Tell me a story. " * 20
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = [pool.submit(call, server, text, **options) for call, text, options in jobs()]
        for number in range(60):
            leaver = server.connect()
            body = tandem.chat(long if number % 3 else "Hello!", stream=number % 2 == 0, max_tokens=100, ignore_eos=True)
            leaver.sendall(tandem.http_post("/v1/chat/completions", body))
            if number % 4 == 0:
                leaver.recv(100)
            leaver.close()
            assert server.request("GET", "/health")[0] == 200
        for future, text in zip(together, alone):
            assert future.result() == text
    server.wait_for_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_frees_the_slot(serve, stream):
    """One slot: whoever comes next is served only if those before have really gone."""
    server = serve("--max-sequences", "1", "--queue", "64")
    for number in range(8):
        leaver = server.connect(2048)
        leaver.sendall(tandem.http_post("/v1/chat/completions", tandem.chat(
            PROMPTS[number], stream=stream, max_tokens=200, ignore_eos=True, logprobs=True, top_logprobs=20)))
        if stream and number == 0:
            leaver.recv(1)
        leaver.close()
    assert server.say("Hello!")
    server.wait_for_idle()


def test_slow_reader_slows_nobody(server):
    alone = server.say(max_tokens=60)
    slow = [server.held_stream() for _ in range(4)]
    assert [server.say(max_tokens=60) for _ in range(3)] == [alone] * 3
    memory = server.memory_kib()
    assert server.request("GET", "/health")[0] == 200
    for connection in slow:
        connection.close()
    server.wait_for_idle()
    server.check_memory(memory, 8)


def is_paused(server):
    """Whether an answer runs for which nothing is computed: twice the same count of tokens, and no step in between."""
    counts = []
    for _ in range(2):
        text = server.request("GET", "/metrics")[2].decode()
        counts.append([line for line in text.splitlines() if line.startswith((
            "tandem_sequences_running ", "tandem_engine_steps_total ", "tandem_engine_step_running_seconds "))])
    return counts[0] == counts[1] and "tandem_sequences_running 1" in counts[0] and "tandem_engine_step_running_seconds 0" in counts[0]


def test_slow_reader_gets_everything(server):
    """Back-pressure loses nothing: a stream that is read late is the stream that is read at once."""
    options = {"max_tokens": 200, "ignore_eos": True, "temperature": 1, "seed": 9, "logprobs": True, "top_logprobs": 20}
    whole = stream_text(server, PROMPTS[0], **options)
    connection, stream = server.open_stream(PROMPTS[0], receive_bytes=2048, **options)
    server.wait_until(lambda: is_paused(server))
    stream += tandem.read_all_of_answer(connection, stream)
    assert tandem.text_of(tandem.events(tandem.body_of(stream))[0]) == whole


@pytest.mark.parametrize("slow, blocking", [("1", "3000"), ("3000", "1")])
def test_slow_reader_is_dropped_in_the_end(serve, slow, blocking):
    """The only slot is held by one that does not read: after its time it is free for the next."""
    server = serve("--max-sequences", "1", "--slow-reader-seconds", slow, "--blocking-reader-seconds", blocking)
    held = server.held_stream()
    assert server.say("Hello!")
    held.close()


def test_overload_is_refused(serve):
    """Beyond slots and queue: 429 with the JSON error and retry-after, for exactly as long as it lasts."""
    server = serve("--max-sequences", "2", "--queue", "2")
    alone = server.say()
    held = [server.held_stream() for _ in range(2)]
    queued = [server.connect() for _ in range(2)]
    for connection in queued:
        connection.sendall(tandem.http_post("/v1/chat/completions", tandem.chat(PROMPTS[0])))
    server.wait_for_waiting(2)
    for _ in range(50):
        status, headers, body = server.request("POST", "/v1/chat/completions", tandem.chat("Hello!"))
        assert status == 429 and float(headers["retry-after"]) > 0
        tandem.check_error(body, headers["Content-Type"])
    assert server.request("GET", "/health")[0] == 200
    for connection in held:
        connection.close()
    for connection in queued:
        status, _, body = tandem.read_answer(connection)
        assert status == 200 and json.loads(body)["choices"][0]["message"]["content"] == alone


def test_keep_alive(server):
    """Many exchanges on one connection, also sent ahead of their answers."""
    alone = server.say()
    connection = server.connect()
    for _ in range(5):
        connection.sendall(tandem.http_post("/v1/chat/completions", tandem.chat(PROMPTS[0])))
        status, _, body = tandem.read_answer(connection)
        assert status == 200 and json.loads(body)["choices"][0]["message"]["content"] == alone
    connection.close()


def chat_usage(server, messages, **options):
    body = {"model": tandem.MODEL.name, "messages": messages, "temperature": 0, "max_tokens": 8, **options}
    status, _, answer = server.request("POST", "/v1/chat/completions", body)
    assert status == 200, answer
    answer = json.loads(answer)
    return answer["choices"], answer["usage"]["prompt_tokens"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_conversation_is_read_once(serve):
    """The second turn finds the first one's prompt; without the cache it says the same, having read all of it."""
    question = {"role": "user", "content": "Tell me a long story about a cat who goes to sea and comes back. " * 3}
    answers = {}
    for mode in ("prompts", "off"):
        server = serve("--prefix-cache", mode)
        choices, length, cached = chat_usage(server, [question])
        assert cached == 0
        reply = choices[0]["message"]["content"]
        choices, second, found = chat_usage(server, [question, {"role": "assistant", "content": reply},
                                                     {"role": "user", "content": "Go on."}])
        assert second > length and (length - 32 <= found <= length if mode == "prompts" else found == 0)
        answers[mode] = reply, choices
    assert answers["prompts"] == answers["off"]


def test_many_answers_to_one_prompt(serve):
    """The prompt counts as read once; asked again, it is not read but for its end, and the answers are the same."""
    server = serve()
    question = [{"role": "user", "content": "Tell me a story about a dog who is afraid of the moon. " * 4}]
    options = {"n": 4, "temperature": 1, "seed": 5, "max_tokens": 20}
    first, length, cached = chat_usage(server, question, **options)
    assert cached == 0 and len(first) == 4
    again, _, cached = chat_usage(server, question, **options)
    assert length - 8 <= cached < length and again == first  # what is not worth copying, and the last token
