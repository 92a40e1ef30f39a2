"""Under load, over HTTP and with the built-in model: who waits, who is sent away, and what they are told."""
import concurrent.futures
import json
import os
import re
import resource
import sys

import pytest

import tandem

sys.path.append(str(tandem.TOP / "tests" / "load"))
import leaks  # noqa: E402


def waiting_stream(server):
    """A connection whose stream waits for its turn."""
    connection = server.connect()
    connection.sendall(tandem.http_post("/v1/chat/completions", tandem.chat("Hello!", stream=True)))
    return connection


def ask(server, key):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    status, headers, body = server.request("POST", "/v1/chat/completions", tandem.chat("Hello!"), headers)
    return status, headers, json.loads(body)


def test_nobody_fills_the_line(serve):
    """One client has all the line: his newest gives way to another's, and is told so; the others are answered."""
    server = serve("--max-sequences", "1", "--queue", "4", "--api-key", "greedy,modest")
    held = server.connect(2048)
    held.sendall(tandem.http_post("/v1/chat/completions", tandem.chat(
        "Tell me a story.", stream=True, max_tokens=200, ignore_eos=True, logprobs=True, top_logprobs=20),
        extra="Authorization: Bearer greedy\r\n"))
    server.wait_until(lambda: server.health()["running"] == 1)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        greedy = [pool.submit(ask, server, "greedy") for _ in range(4)]
        server.wait_for_waiting(4)
        status, headers, body = ask(server, "greedy")
        assert status == 429 and "waiting" in body["error"]["message"]
        modest = pool.submit(ask, server, "modest")
        away = next(concurrent.futures.as_completed(greedy, tandem.PATIENCE_S)).result()
        assert away[0] == 429 and "gave way" in away[2]["error"]["message"]
        assert int(away[1]["retry-after"]) * 1000 >= int(away[1]["retry-after-ms"]) > 0
        assert not modest.done() and server.health()["waiting"] == 4
        held.close()
        assert modest.result()[0] == 200
        assert sorted(one.result()[0] for one in greedy) == [200, 200, 200, 429]


def test_small_requests_while_the_engine_works(server):
    """/health and /metrics do not wait for a step, let alone for an answer."""
    seen = []
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(server.say, max_tokens=300, ignore_eos=True) for _ in range(8)]
        while not all(answer.done() for answer in answers):
            seen.append(server.health())
            assert server.request("GET", "/metrics")[0] == 200
    assert any(health["running"] for health in seen)


def test_few_descriptors(serve):
    """Fewer connections than asked for, which is said. Where there are fewer still, whoever comes is told at once and not
    left waiting, and those who are in are served."""
    files = 100
    server = serve("--header-seconds", "100",
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)))
    process = server.process.pid
    room = int(re.search(f"may have {files} open files, so (\\d+) connections instead of 4096", server.log)[1])
    used = len(os.listdir(f"/proc/{process}/fd"))
    assert 10 < room < files - used
    room //= 2
    resource.prlimit(process, resource.RLIMIT_NOFILE, (used + room, files))
    connections = [server.connect() for _ in range(files)]
    for connection in connections[room:]:
        status, _, body = tandem.read_answer(connection)
        assert status == 429 and "all the connections" in tandem.check_error(body)["message"]
    connections[0].sendall(tandem.http_post("/v1/chat/completions", tandem.chat("Hello!")))
    assert tandem.read_answer(connections[0])[0] == 200
    for connection in connections:
        connection.close()
    server.wait_until(lambda: server.answers("/health"))


def test_a_stream_that_waits_too_long(serve):
    """Once the first comment is out the status is 200: the refusal comes inside the stream, and says what the 429 would
    have said. Before that it is a 429 as for anybody."""
    server = serve("--max-sequences", "1", "--queue-seconds", "2", "--heartbeat-seconds", "0.5")
    held = server.held_stream()
    answer = tandem.read_all_of_answer(waiting_stream(server), b"")
    assert answer.startswith(b"HTTP/1.1 200 ")
    body = tandem.body_of(answer)
    assert b": ping" in body
    (event,), done = tandem.events(body)
    error = event["error"]
    assert not done and error["code"] == "rate_limit_exceeded" and "has waited" in error["message"]
    assert error["status"] == 429 and error["retry_after_ms"] > 0
    held.close()

    server = serve("--max-sequences", "1", "--queue-seconds", "1")
    held = server.held_stream()
    status, headers, body = tandem.read_answer(waiting_stream(server))
    assert status == 429 and int(headers["retry-after"]) >= 1
    assert "has waited" in tandem.check_error(body, headers["content-type"])["message"]
    held.close()


@pytest.mark.hostile
def test_no_growth(serve):
    """A short form of tests/load/leaks.py."""
    server = serve("--log-level", "warning", "--threads", "1")
    table = leaks.measure(server, 1000 if tandem.SANITIZED else 4000, 4, print)
    assert max(count for _, count in table) == table[0][1]
    assert tandem.SANITIZED or leaks.grown(table) < leaks.GROWTH_KIB_MAX
