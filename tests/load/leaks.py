"""Whether the real program leaks: many requests of every kind, one in five of which its client leaves at a random moment.

    python3 tests/load/leaks.py [--requests 100000] [--binary build/tandem]

prints the server's anonymous memory and open descriptors as it goes, and ends with exit code 1 where they grew.
"""
import argparse
import os
import pathlib
import random
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

AT_ONCE = 32
GROWTH_KIB_MAX = 4096  # what a heap that breathes may add; a leak of 50 bytes a request would be more
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER: close with a reset


def requests(tandem):
    """One of each kind: small answers and errors, chats and completions, whole and streamed, several, chunked."""
    get = "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    close = "Connection: close\r\n"
    body = b'{"prompt": "Once", "max_tokens": 2}'
    return [
        *(get.format(path).encode() for path in ("/health", "/metrics", "/v1/models", "/nothing")),
        tandem.http_post("/v1/chat/completions", {"messages": "wrong"}, extra=close),
        tandem.http_post("/v1/chat/completions", tandem.chat("Hello!", max_tokens=3), extra=close),
        tandem.http_post("/v1/chat/completions", tandem.chat("Hello!", max_tokens=4, stream=True), extra=close),
        tandem.http_post("/v1/completions", {"prompt": "A cat", "max_tokens": 2, "n": 2, "stop": ["x"]}, extra=close),
        tandem.http_post("/v1/completions", {"prompt": "A dog", "max_tokens": 3, "logprobs": 2, "stream": True}, extra=close),
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n" + close.encode() +
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
    ]


def leave(connection, request, draw):
    """In the middle of asking, or behind it, after a moment or at once, with a reset or without."""
    connection.sendall(request[:draw.randrange(1, len(request))] if draw.random() < 0.4 else request)
    if draw.random() < 0.5:
        time.sleep(draw.random() * 0.002)
    if draw.random() < 0.5:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    connection.close()


def visit(server, kinds, count, draw):
    """So many requests, some at once. Returns how many were left."""
    left = 0
    for _ in range(0, count, AT_ONCE):
        staying = []
        for _ in range(AT_ONCE):
            connection, request = server.connect(), draw.choice(kinds)
            if draw.random() < 0.2:
                leave(connection, request, draw)
                left += 1
            else:
                connection.sendall(request)
                staying.append(connection)
        for connection in staying:
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 "), answer
            while answer:
                answer = connection.recv(65536)
            connection.close()
    return left


def descriptors(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def measure(server, count, steps, tell):
    """Memory and descriptors before, then after each step. The first step warms up: all that is made once, is made."""
    import tandem
    draw, kinds, table = random.Random(6), requests(tandem), []
    began, left = time.monotonic(), 0
    for step in range(steps + 1):
        left += visit(server, kinds, count // steps, draw) if step else 0
        server.wait_for_idle()
        server.wait_until(lambda: descriptors(server) <= (table[0][1] if table else 10**6))
        table.append((server.memory_kib(), descriptors(server)))
        tell(f"{step * (count // steps):>9}{left:>9}{table[-1][0]:>12}{table[-1][1]:>13}{time.monotonic() - began:>9.1f}")
    return table


def grown(table):
    """KiB between the end of the first fifth and the end."""
    return table[-1][0] - table[max(1, len(table) // 5)][0]


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--requests", type=int, default=100_000)
    options.add_argument("--binary")
    options = options.parse_args()
    if options.binary:
        os.environ["TANDEM"] = str(pathlib.Path(options.binary).resolve())
    import tandem
    server = tandem.Server("--log-level", "warning", "--threads", "1")
    print(f"{'requests':>9}{'left':>9}{'anon. KiB':>12}{'descriptors':>13}{'seconds':>9}")
    table = measure(server, options.requests, 10, lambda line: print(line, flush=True))
    assert server.stop() == 0
    print(f"grown by {grown(table)} KiB since the first fifth; at most {GROWTH_KIB_MAX} is well")
    sys.exit(grown(table) > GROWTH_KIB_MAX)


if __name__ == "__main__":
    main()
