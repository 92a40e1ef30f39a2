"""A Unix socket in place of a port: who may connect, what becomes of its file, and requests in pieces."""
import contextlib
import fcntl
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time

import pytest

import tandem


class UnixServer(tandem.Client):
    """`tandem serve --unix-socket` for as long as a test likes."""

    def __init__(self, path, *arguments, **options):
        self.path = str(path)
        self.output = tempfile.NamedTemporaryFile(prefix="tandem-e2e-", suffix=".log")
        self.process = subprocess.Popen(
            [tandem.BINARY, "serve", "--config", "none", "--model", tandem.MODEL, "--unix-socket", path, *arguments],
            stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT, **options)
        self.url = self.path
        self.wait_until(lambda: "serves" in self.log or self.process.poll() is not None)

    @property
    def log(self):
        return open(self.output.name, errors="replace").read()

    def connect(self, receive_bytes=None):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(tandem.PATIENCE_S)
        connection.connect(self.path)
        return connection

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("localhost", timeout=tandem.PATIENCE_S)
        connection.sock = self.connect()
        try:
            connection.request(method, path, json.dumps(body) if body else None,
                               {"Content-Type": "application/json"} if headers is None else headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(tandem.PATIENCE_S)
        finally:
            self.process.kill()


@pytest.fixture
def place():
    """A directory with a short name: a socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="tandem-", dir="/tmp") as directory:
        yield directory


@pytest.fixture
def unix(place):
    with contextlib.ExitStack() as stack:
        def start(*arguments, path=f"{place}/http", **options):
            server = UnixServer(path, *arguments, **options)
            stack.callback(server.stop)
            return server
        yield start


def test_answers(unix):
    """Whatever the Host header says: web pages can not get here. What is streamed, is."""
    server = unix()
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600
    assert server.request("GET", "/health", headers={"Host": "anything.example"})[0] == 200
    whole = server.say("Hello!")
    connection, start = server.open_stream("Hello!")
    chunks, done = tandem.events(tandem.body_of(start + tandem.read_all_of_answer(connection, start)))
    assert done and tandem.text_of(chunks) == whole
    assert server.request("GET", "/nothing")[0] == 404
    server.say("x", max_tokens=1)
    assert f"uid {os.getuid()}" not in server.log  # lines for people do not tell who
    assert f"curl --unix-socket {server.path} -N http://localhost/v1" in server.log
    assert "whoever may open the socket (mode 600)" in server.log


def test_curl_and_health(unix):
    server = unix("--log-format", "json")
    answer = subprocess.run(["curl", "-sS", "--unix-socket", server.path, "http://localhost/v1/chat/completions", "-d",
                             json.dumps(tandem.chat("Hello!"))], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["choices"][0]["message"]["content"]
    server.wait_until(lambda: f'"client":"uid {os.getuid()}"' in server.log)
    health = [tandem.BINARY, "health", "--config", "none", "--unix-socket", server.path]
    assert '"ready"' in subprocess.run(health, capture_output=True, text=True, check=True).stdout
    assert server.stop() == 0
    gone = subprocess.run(health, capture_output=True, text=True)
    assert gone.returncode == 1 and server.path in gone.stderr
    health[-1] = "/tmp/" + 103 * "a"  # a byte too long: it is not asked whether a shorter one answers
    long = subprocess.run(health, capture_output=True, text=True)
    assert long.returncode == 64 and "a path has 1 to 107 bytes" in long.stderr


def test_a_port_beside_it_is_of_no_use(unix):
    for arguments, said in (((), False), (("--port", "9000"), True), (("--host", "::1"), True)):
        server = unix(*arguments)
        assert ("nothing listens on --host" in server.log) == said
        assert server.stop() == 0


@pytest.mark.parametrize("mode", ["600", "660", "666"])
def test_permissions(unix, mode):
    """As asked for, whatever the umask, which is as before afterwards: other files are written later."""
    server = unix("--unix-socket-mode", mode, preexec_fn=lambda: os.umask(0o027))
    assert stat.S_IMODE(os.stat(server.path).st_mode) == int(mode, 8)
    assert "\nUmask:\t0027\n" in open(f"/proc/{server.process.pid}/status").read()


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 0), (signal.SIGINT, 0)])
def test_file_goes_with_the_server(unix, number, status):
    server = unix()
    assert server.stop(number) == status and not os.path.exists(server.path)


def test_file_goes_at_once_when_stopped_twice(unix):
    server = unix()
    connection, _ = server.open_stream(max_tokens=400, ignore_eos=True, logprobs=True, top_logprobs=20)
    server.process.send_signal(signal.SIGTERM)
    server.wait_until(lambda: "shutting down" in server.log)
    assert server.stop() == 128 + signal.SIGTERM and not os.path.exists(server.path)
    connection.close()


def paused_while_loading(path):
    """A server that has its socket and no model yet: it heeds signals, and its loop, which comes after the model, is
    not made. One that was quicker than we are is ended, and there is another."""
    while True:
        process = subprocess.Popen([tandem.BINARY, "serve", "--config", "none", "--model", tandem.MODEL,
                                    "--placement", "cpu", "--unix-socket", path],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        proc = pathlib.Path(f"/proc/{process.pid}")
        caught = lambda: int(re.search("SigCgt:\t(.*)", (proc / "status").read_text())[1], 16)
        while not caught() >> signal.SIGTERM - 1 & 1:
            assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        if not any("eventpoll" in os.readlink(file) for file in (proc / "fd").iterdir()):
            return process
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("replaced", [False, True])
def test_file_goes_when_stopped_while_loading(place, number, replaced):
    """And what came in its place meanwhile stays."""
    path = f"{place}/http"
    process = paused_while_loading(path)
    if replaced:
        os.unlink(path)
        open(path, "w").close()
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    output = process.communicate(timeout=tandem.PATIENCE_S)[0]
    assert process.returncode == 0 and os.path.exists(path) == replaced, output


def test_file_goes_where_the_model_can_not_be_loaded(place):
    path = f"{place}/http"
    run = subprocess.run([tandem.BINARY, "serve", "--config", "none", "--model", place, "--unix-socket", path],
                         capture_output=True, text=True)
    assert run.returncode == 2 and not os.path.exists(path)


def test_left_behind_is_replaced(unix):
    """kill -9 leaves the file: the next server takes its place. One that is in use it leaves alone."""
    server = unix()
    server.stop(signal.SIGKILL)
    assert os.path.exists(server.path)
    server = unix()
    assert server.say("Hello!")
    second = unix()
    assert second.process.wait(tandem.PATIENCE_S) == 1 and "another server does" in second.log
    assert server.say("Hello!")


def test_another_file_is_left_alone(unix, place):
    path = f"{place}/notes"
    with open(path, "w") as file:
        file.write("mine")
    server = unix(path=path)
    assert server.process.wait(tandem.PATIENCE_S) == 1 and "no socket" in server.log
    assert open(path).read() == "mine"


def test_a_socket_that_can_not_be_asked_is_left_alone(unix, place):
    """As one without permission is not: no server is told of that nobody has seen."""
    path = f"{place}/log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        server = unix(path=path)
        assert server.process.wait(tandem.PATIENCE_S) == 1
    assert "can not be connected to: Protocol wrong type" in server.log and "another server" not in server.log
    assert os.path.exists(path)


@contextlib.contextmanager
def locked(directory):
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def test_a_lock_that_stays(unix, place):
    """Whoever may open the directory may lock it; the server says so and leaves."""
    with locked(place):
        with open("/proc/locks") as file:
            known = f" {os.getpid()} " in file.read()
        server = unix()
        assert server.process.wait(tandem.PATIENCE_S) == 1 and not os.path.exists(server.path)
        holder = f"process {os.getpid()}" if known else "another program"
        assert f"{holder} holds a lock on the directory {place}," in server.log
    assert unix().say("Hello!")


def test_a_lock_that_goes(unix, place):
    """Another server that starts is waited for."""
    held = contextlib.ExitStack()
    held.enter_context(locked(place))
    threading.Timer(0.3, held.close).start()
    assert unix().say("Hello!")


def test_what_came_in_its_place_is_left_alone(unix):
    """A server that ends late does not take the next one's file with it."""
    first = unix()
    os.unlink(first.path)
    second = unix()
    assert first.stop() == 0
    assert second.say("Hello!")


@pytest.mark.parametrize("path", ["x" * 200, "/tmp/no/such/directory/http"])
def test_impossible_paths(path):
    run = subprocess.run([tandem.BINARY, "serve", "--config", "none", "--unix-socket", path], capture_output=True, text=True)
    assert run.returncode in (1, 64) and path[:100] in run.stderr


def test_a_header_in_pieces(unix):
    """Part of a header is waited for without a turn of the loop for each moment; one that never ends has its time."""
    server = unix("--header-seconds", "2")
    connection = server.connect()
    for piece in (b"GET /hea", b"lth HTTP/1.1\r\nHo", b"st: a\r\n", b"\r\n"):
        connection.sendall(piece)
        time.sleep(0.05)
    assert tandem.read_answer(connection)[0] == 200
    slow = server.connect()
    slow.sendall(b"GET /hea")
    ticks = lambda: sum(map(int, open(f"/proc/{server.process.pid}/stat").read().rpartition(")")[2].split()[11:13]))
    before = ticks()
    status, _, body = tandem.read_answer(slow)
    assert status == 408 and tandem.check_error(body)
    assert ticks() - before < 0.5 * os.sysconf("SC_CLK_TCK")  # of two seconds: it did not spin
    gone = server.connect()
    gone.sendall(b"GET /hea")
    time.sleep(0.05)
    gone.close()
    assert server.request("GET", "/health")[0] == 200


def test_one_that_reads_nothing_while_others_wait(unix):
    server = unix("--slow-reader-seconds", "3000", "--blocking-reader-seconds", "0.5", "--max-sequences", "1")
    stuck, _ = server.open_stream(max_tokens=400, ignore_eos=True, logprobs=True, top_logprobs=20)
    assert server.say("Hello!")
    assert "reads too slowly" in server.log
    stuck.close()


def test_slow_readers(unix):
    """One that reads nothing is dropped; one that reads little by little gets all."""
    server = unix("--slow-reader-seconds", "0.5", "--max-sequences", "1")
    options = {"max_tokens": 400, "ignore_eos": True, "logprobs": True, "top_logprobs": 20, "temperature": 0}
    stuck, _ = server.open_stream(**options)
    assert server.say("Hello!")  # the only place is free again
    assert "reads too slowly" in server.log
    stuck.close()
    for stream in (True, False):
        reader = server.connect()
        reader.sendall(tandem.http_post("/v1/chat/completions", tandem.chat("Hello!", stream=stream, **options),
                                        extra="Connection: close\r\n"))
        received = b""
        while more := reader.recv(16384):
            received += more
            time.sleep(0.05)
        assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}}")
        assert len(received) > 1.5 / 0.05 * 16384  # so it was given longer than one that reads nothing
        reader.close()


def test_two_requests_in_one_piece(unix):
    """A connection is for one request: the second is never taken for one that was looked at."""
    server = unix()
    connection = server.connect()
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\nHost: a\n\n")
    answer = tandem.read_all(connection)
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.startswith(b"HTTP/1.1 200") and b"Connection: close" in answer


def test_leaving_frees_the_place(unix):
    server = unix("--max-sequences", "1")
    for stream in (True, False):
        leaver = server.connect()
        leaver.sendall(tandem.http_post("/v1/chat/completions", tandem.chat(
            "Hello!", stream=stream, max_tokens=1900, ignore_eos=True)))
        server.wait_until(lambda: server.health()["running"] == 1)
        leaver.close()
        server.wait_for_idle()
    metrics = server.request("GET", "/metrics")[2].decode()
    assert int(re.search(r"^tandem_completion_tokens_total (\d+)$", metrics, re.M)[1]) < 1900  # neither to its end
