"""Requests that no client should send: every one is answered with a JSON error or by closing, and leaves no trace."""
import http.client
import json
import os
import random
import re
import select
import signal
import socket
import time

import pytest

import tandem

pytestmark = pytest.mark.hostile

GOOD = tandem.http_post("/v1/chat/completions", tandem.chat("Hello!", max_tokens=4))
JSON_CASES, RAW_CASES = 9000, 1000  # together the 10,000 malformed requests


def bad_json(random):
    """A body that is no valid request, whatever the draw."""
    valid = json.dumps(tandem.chat("Hello!")).encode()
    wrong = random.choice([None, True, -1, 1e308, -1e308, 2**63, -2**63, 0.5, "1", "", [], {}, [[]], {"a": 1}, [None]])
    deep = random.choice([65, 1000, 100_000])
    return random.choice([
        lambda: valid[:random.randrange(len(valid))],                          # cut off
        lambda: valid + random.choice([b"x", b"{}", b",", b"]"]),              # something behind it
        lambda: bytes(random.randrange(256) for _ in range(random.randrange(1, 200))) + b"\xff",
        lambda: b"[" * deep + b"]" * deep,
        lambda: b'{"a":' * deep + b"1" + b"}" * deep,
        lambda: json.dumps(tandem.chat("x")).replace('"x"', '"' + "\\ud800" + '"').encode(),  # a lone surrogate
        lambda: valid.replace(b"Hello!", random.choice([b"\xc3", b"\xff\xfe", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x01"])),
        lambda: json.dumps({**tandem.chat("x"), "messages": wrong}).encode(),
        lambda: json.dumps({**tandem.chat("x"), "model": wrong or 7}).encode(),
        lambda: json.dumps({**tandem.chat("x"), "messages": [{"role": "user", "content": 5}, wrong]}).encode(),
        lambda: json.dumps({**tandem.chat("x"), random.choice(["temperature", "top_p", "seed", "n", "logit_bias"]):
                            random.choice(["1", [], [1], True, {"a": "b"}])}).encode(),
        lambda: json.dumps({**tandem.chat("x"), random.choice(["max_tokens", "n", "top_logprobs"]):
                            random.choice([-1, -2**63, 2**63, 1e308, 2.5, "1", {}])}).encode(),
        lambda: json.dumps({**tandem.chat("x"), f"unknown_{random.randrange(10**9)}": wrong or 0}).encode(),
        lambda: json.dumps({f"key{i}": i for i in range(random.choice([100, 5000]))}).encode(),
        lambda: b'{"n": 1' + b"0" * random.choice([20, 400, 5000]) + b"}",
        lambda: b'{"model": "a", "model": "b"' + valid[1:],                    # a key twice
        lambda: random.choice([b"", b"null", b"0", b'"text"', b"[]", b"\xef\xbb\xbf{}", b"NaN", b"{'a': 1}", b"\0"]),
    ])()


def bad_bytes(random):
    """Bytes that are no valid request of HTTP, or one that has to be refused."""
    line, _, rest = GOOD.partition(b"\r\n")
    head, _, body = GOOD.partition(b"\r\n\r\n")
    noise = bytes(random.randrange(256) for _ in range(random.randrange(1, 300)))
    return random.choice([
        lambda: noise + b"\r\n\r\n",
        lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise,      # TLS
        lambda: random.choice([b"POST", b"POST /v1/chat/completions", b"/ HTTP/1.1", b"GET / HTTP/9.9", b"GET  HTTP/1.1",
                               b"get /health HTTP/1.1", b"GET /health HTTP/1.1 extra", b"G\0ET /health HTTP/1.1"]) + b"\r\n\r\n",
        lambda: b"GET /" + b"a" * random.choice([9000, 100_000]) + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        lambda: b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X-A: " + b"b" * random.choice([40_000, 200_000]) + b"\r\n\r\n",
        lambda: b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X-A: b\r\n" * 5000 + b"\r\n",
        lambda: GOOD.replace(b"Content-Length: ", b"Content-Length: " + random.choice([b"-", b"9999999999999999999", b"1,", b"0x", b"+"])),
        lambda: GOOD.replace(b"Content-Length: ", b"Content-Length: 3\r\nContent-Length: "),
        lambda: GOOD.replace(b"Content-Length: ", b"Transfer-Encoding: chunked\r\nContent-Length: "),
        lambda: line + b"\r\nHost: 127.0.0.1\r\nTransfer-Encoding: " + random.choice([b"gzip", b"chunked, gzip", b"xchunked", b"identity, chunked"]) + b"\r\n\r\n" + body,
        lambda: line + b"\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n" + random.choice([b"zz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"5;" + b"x" * 9000 + b"\r\n"]) + body,
        lambda: b"GET /" + bytes([random.randrange(128, 256)]) * 3 + b"%zz%00%ff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        lambda: b"GET /v1/models/" + random.choice([b"..", b"../../etc/passwd", b"%2e%2e%2f", b"a%00b", b"\\", b"a" * 3000]) + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        lambda: GOOD.replace(b"Host: 127.0.0.1", random.choice([b"Host: evil.example", b"Host:", b"Host: 127.0.0.1\r\nHost: evil.example", b"X: y"])),
        lambda: GOOD.replace(b"\r\n", b"\n", random.randrange(1, 3))[:random.randrange(20, len(line) + 40)],
        lambda: line + b"\r\n" + b"No colon here\r\n: no name\r\n folded\r\n" + rest,
    ])()


def exchange(server, request):
    """What comes back on a connection of its own: one answer, or nothing before the other side closes."""
    connection = server.connect()
    received = b""
    try:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        while not is_whole(received) and (more := connection.recv(65536)):
            received += more
    except (BrokenPipeError, ConnectionResetError, OSError) as error:
        assert not isinstance(error, TimeoutError), request[:200]
    finally:
        connection.close()
    return received


def is_whole(answer):
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return bool(end and length) and len(body) >= int(length[1])


def test_ten_thousand(serve):
    server, draw = serve(), random.Random(20)
    before = server.say(max_tokens=40)
    memory = None
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=tandem.PATIENCE_S)
    for number in range(JSON_CASES):
        body = bad_json(draw)
        path = draw.choice(["/v1/chat/completions", "/v1/completions"])
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            connection.close()  # closing is an answer too; but only to what is plainly out of bounds
            assert len(body) > 60_000, body[:200]
            continue
        assert response.status in (400, 404, 413), (response.status, answer[:300], body[:300])
        tandem.check_error(answer, response.headers["Content-Type"])
        assert response.headers["x-request-id"]
        if number == 1000:
            memory = server.memory_kib()
    connection.close()
    for _ in range(RAW_CASES):
        request = bad_bytes(draw)
        answer = exchange(server, request)
        assert b"<html" not in answer.lower(), (request[:200], answer[:300])
        assert answer or b"\r\n\r\n" not in request, request[:200]  # in silence only where no header ever ended
        if answer and not answer.startswith(b"HTTP/1.1 100"):
            assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5", b"HTTP/1.0 4", b"HTTP/1.0 5")), (request[:200], answer[:300])
            tandem.check_error(answer.partition(b"\r\n\r\n")[2])
    assert server.process.poll() is None, server.log
    assert server.say(max_tokens=40) == before
    server.wait_for_idle()
    server.check_memory(memory, 16)


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_malformed_later_requests(server, pieces):
    """Behind a good request on the same connection, whole or in pieces: refused as a first one is, and nobody notices."""
    before, draw = server.say(), random.Random(21)
    for _ in range(150):
        connection = server.connect()
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert tandem.read_answer(connection)[0] == 200
        request, answer = bad_bytes(draw), b""
        step = -(-len(request) // pieces) or 1
        try:
            for at in range(0, len(request), step):
                connection.sendall(request[at : at + step])
                if pieces > 1:
                    time.sleep(0.001)
            connection.shutdown(socket.SHUT_WR)
            answer = tandem.read_all(connection)  # fails with TimeoutError where nothing comes and nothing closes
        except OSError as error:  # closed already
            assert not isinstance(error, TimeoutError)
        finally:
            connection.close()
        assert b"<html" not in answer.lower(), (request[:200], answer[:300])
        if answer and not answer.startswith(b"HTTP/1.1 100"):
            assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), (request[:200], answer[:300])
            tandem.check_error(answer.partition(b"\r\n\r\n")[2])
    assert server.say() == before
    server.wait_for_idle()


@pytest.mark.parametrize("extra", ["Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: gzip\r\n"])
def test_two_lengths_are_refused_and_closed(server, extra):
    """The ground of request smuggling: 400, and nothing behind it is taken for a second request."""
    request = tandem.http_post("/v1/chat/completions", tandem.chat("Hello!"), extra=extra)
    connection = server.connect()
    connection.sendall(request + GOOD)
    received = tandem.read_all(connection)
    assert received.count(b"HTTP/1.1 ") == 1 and received.startswith(b"HTTP/1.1 400"), received[:500]
    tandem.check_error(received.partition(b"\r\n\r\n")[2])


def test_body_too_large(server):
    """Refused by its announced length, and by what has come when none was announced; never held in memory."""
    memory = server.memory_kib()
    connection = server.connect()
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                       b"Content-Length: 5000000000\r\n\r\n")
    received = tandem.read_all(connection)
    assert received.startswith(b"HTTP/1.1 413"), received[:300]
    tandem.check_error(received.partition(b"\r\n\r\n")[2])
    server.check_memory(memory, 8)


def test_endless_body(serve):
    """Chunk after chunk without an end: 413 as soon as it is too much, and soon nobody takes the rest."""
    server = serve("--body-seconds", "1")
    memory = server.memory_kib()
    connection = server.connect()
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                       b"Transfer-Encoding: chunked\r\n\r\n")
    deadline, received = time.monotonic() + tandem.PATIENCE_S, b""
    try:
        while time.monotonic() < deadline:
            connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
            if not received and select.select([connection], [], [], 0)[0]:
                received = connection.recv(65536)
        cut = False
    except (BrokenPipeError, ConnectionResetError):
        cut = True
    connection.close()
    assert cut and received.startswith(b"HTTP/1.1 413"), received[:300]
    tandem.check_error(received.partition(b"\r\n\r\n")[2])
    server.check_memory(memory, 16)


@pytest.mark.parametrize("start", [b"GET /heal", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: b\r\n",
                                   tandem.http_post("/v1/completions", b" " * 5000)[:-4900]])
def test_slow_senders_are_dropped(serve, start):
    """Neither a header nor a body may take for ever, even when a byte comes now and then."""
    server = serve("--header-seconds", "1", "--body-seconds", "1")
    connection = server.connect()
    connection.sendall(start)
    connection.settimeout(0.2)
    received, closed = b"", False
    for _ in range(int(tandem.PATIENCE_S / 0.2)):
        try:
            connection.sendall(b"a")
            more = connection.recv(65536)
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            more = b""
        received += more
        if not more:
            closed = True
            break
    assert closed
    if received:
        assert received.startswith(b"HTTP/1.1 4"), received[:300]
        tandem.check_error(received.partition(b"\r\n\r\n")[2])
    assert server.say("Hello!")


def test_what_follows_a_refused_body_harms_nobody(server):
    """Requests whose bodies come in chunks, ended by a DELETE, go on with what is no chunk, in the turn of the server's
    loop in which others' chunks come: these are not blamed for it."""
    body = json.dumps({"prompt": "Once", "max_tokens": 2}).encode()
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:5], body[5:10], body[10:])] + [b"0\r\n\r\n"]

    def begin(request_id):
        connection = server.connect()
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                           b"x-request-id: %s\r\nTransfer-Encoding: chunked\r\n\r\n%s" % (request_id, chunks[0]))
        return connection

    for turn in range(4):
        bad = [begin(b"bad-%d-%d" % (turn, i)) for i in range(8)]
        for i, connection in enumerate(bad):
            deadline = time.monotonic() + tandem.PATIENCE_S
            while server.request("DELETE", f"/v1/completions/bad-{turn}-{i}")[0] != 200:  # it is not there yet
                assert time.monotonic() < deadline
            assert tandem.read_answer(connection)[0] == 499
        good = [begin(b"good") for _ in range(8)]
        assert server.say("Hello!")  # all that came has been looked at
        os.kill(server.process.pid, signal.SIGSTOP)
        for connection in bad:
            connection.sendall(b"zz\r\n\r\n")
        for connection in good:
            connection.sendall(chunks[1])
        os.kill(server.process.pid, signal.SIGCONT)
        for connection in good:
            connection.sendall(chunks[2] + chunks[3])
            assert tandem.read_answer(connection)[0] == 200
            connection.close()
        for connection in bad:
            connection.close()


def test_a_body_without_end_harms_nobody(server):
    """Sizes of chunks that go on and on are refused; what lies behind them in the socket is not somebody else's."""
    head = (b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n")
    body = json.dumps({"prompt": "Once", "max_tokens": 2}).encode()
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:5], body[5:])]
    for _ in range(4):
        bad, good = [server.connect() for _ in range(8)], [server.connect() for _ in range(8)]
        for connection in bad + good:
            connection.sendall(head + chunks[0])
        assert server.say("Hello!")  # all that came has been looked at
        os.kill(server.process.pid, signal.SIGSTOP)
        for connection in bad:
            connection.sendall(b"1;" + b"x" * 60_000 + b"zz\r\n\r\n")
        for connection in good:
            connection.sendall(chunks[1] + b"0\r\n\r\n")
        os.kill(server.process.pid, signal.SIGCONT)
        for connection in good:
            assert tandem.read_answer(connection)[0] == 200
            connection.close()
        for connection in bad:
            assert tandem.read_answer(connection)[0] == 400
            connection.close()


def test_many_idle_connections(server):
    """Connections that say nothing keep nobody out."""
    idle = [server.connect() for _ in range(200)]
    assert server.say("Hello!")
    for connection in idle:
        connection.close()


def test_reset_in_the_middle(server):
    """A connection reset at every stage of a request is no more than a client that left."""
    whole = server.say("Hello!")
    for cut in range(1, len(GOOD), 7):
        connection = server.connect()
        connection.sendall(GOOD[:cut])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    assert server.say("Hello!") == whole
