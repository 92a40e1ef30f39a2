"""A `tandem serve` of one's own, and the plain means to talk to it: JSON over HTTP, server-sent events, raw bytes."""
import atexit
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("TANDEM", TOP / "build" / "tandem"))
MODEL = pathlib.Path(os.environ.get("TANDEM_TEST_MODEL", TOP / "models" / "demo"))
SANITIZED = BINARY.exists() and b"__asan_init" in BINARY.read_bytes()
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="tandem-cache-")  # not the user's own
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
PATIENCE_S = 120  # against hanging only: nothing here is a matter of speed


class Client:
    """Talks to what listens on a port of this machine."""

    def __init__(self, port):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def connect(self, receive_bytes=None):
        connection = socket.socket()
        if receive_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(PATIENCE_S)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def request(self, method, path, body=None, headers=None):
        """Status, headers and body of one exchange on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            headers = {"Content-Type": "application/json"} if headers is None else headers
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def post(self, path, body):
        """The object that a good request is answered with."""
        status, _, answer = self.request("POST", path, body)
        assert status == 200, answer
        return json.loads(answer)

    def say(self, text="Tell me a short story.", **options):
        """The text of a chat answer, not streamed."""
        return self.post("/v1/chat/completions", chat(text, **options))["choices"][0]["message"]["content"]

    def open_stream(self, text="Tell me a short story.", receive_bytes=None, **options):
        """A connection on which the beginning of a streamed chat answer has arrived, and that beginning."""
        connection = self.connect(receive_bytes)
        connection.sendall(http_post("/v1/chat/completions", chat(text, stream=True, **options)))
        start = b""
        while b"\ndata: {" not in start:
            more = connection.recv(256)
            assert more, start
            start += more
        assert start.startswith(b"HTTP/1.1 200"), start
        return connection, start

    def held_stream(self):
        """A stream whose reader has stopped reading long before its end: it keeps its slot."""
        return self.open_stream(receive_bytes=2048, max_tokens=200, ignore_eos=True, temperature=1, seed=5,
                                logprobs=True, top_logprobs=20)[0]

    def wait_until(self, holds):
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, self.url
            time.sleep(0.01)

    def health(self):
        return json.loads(self.request("GET", "/health")[2])

    def wait_for_idle(self):
        """Until no request runs or waits."""
        self.wait_until(lambda: self.health()["running"] + self.health()["waiting"] == 0)

    def wait_for_waiting(self, count):
        self.wait_until(lambda: self.health()["waiting"] == count)

    def answers(self, path):
        """Whether what listens there, if anything does, answers 200."""
        try:
            return self.request("GET", path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def listens(self):
        try:
            self.connect().close()
            return True
        except (ConnectionRefusedError, ConnectionResetError):
            return False


class Server(Client):
    """Runs from construction until stop(); its output is kept in `log`. No model: the built-in one."""

    def __init__(self, *arguments, model=MODEL, environment={}, **options):
        self.output = tempfile.NamedTemporaryFile(prefix="tandem-e2e-", suffix=".log")
        self.process = subprocess.Popen(
            [BINARY, "serve", "--config", "none", *(["--model", model] if model else []), "--port", "0", *arguments],
            env={**{name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}, **environment},
            stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT, **options)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", self.log)
            if found:
                break
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"the server did not start: {self.log}")
            time.sleep(0.01)
        super().__init__(int(found[1]))

    @property
    def log(self):
        return pathlib.Path(self.output.name).read_text(errors="replace")

    def stop(self, number=signal.SIGTERM):
        """Exit status after a signal; kills what does not end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self):
        """Exit status of one that has been told to end."""
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()

    def memory_kib(self):
        """Anonymous memory that is resident."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1])

    def check_memory(self, before_kib, growth_mib):
        """A sanitizer holds freed memory back, and tells of leaks by itself when the process ends."""
        assert SANITIZED or self.memory_kib() < before_kib + 1024 * growth_mib


def wait_for_handlers(pid):
    """Until a process sees to SIGINT itself."""
    deadline = time.monotonic() + PATIENCE_S
    while not int(re.search(r"SigCgt:\s+(\w+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1], 16) & 1 << signal.SIGINT - 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def chat(text, **options):
    options = {"max_tokens": 24, "temperature": 0, **options}
    return {"model": MODEL.name, "messages": [{"role": "user", "content": text}], **options}


def http_post(path, body, host="127.0.0.1", extra=""):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{extra}\r\n")
    return head.encode() + body


def read_answer(connection):
    """Status, headers (lower-case names) and body of the next answer on a connection; None: it was closed."""
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()
    except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
        return None
    finally:
        response.close()


def read_all(connection):
    """All bytes until the other side closes."""
    received = b""
    try:
        while more := connection.recv(65536):
            received += more
    except ConnectionResetError:
        pass
    return received


def body_of(answer):
    """The body of an answer's bytes, its chunks put together."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return rest
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if not rest or int(size, 16) == 0:
            break
        body += rest[:int(size, 16)]
        rest = rest[int(size, 16) + 2:]
    return body


def read_all_of_answer(connection, start):
    """What follows `start` until the answer in chunks is complete or the connection closes."""
    received = b""
    while not (start + received).endswith(b"\r\n0\r\n\r\n"):
        more = connection.recv(65536)
        if not more:
            break
        received += more
    connection.close()
    return received


def events(stream):
    """The objects of a stream's bytes (after the HTTP header), and whether [DONE] ended it."""
    data = [line[6:] for line in stream.decode().splitlines() if line.startswith("data: ")]
    done = bool(data) and data[-1] == "[DONE]"
    return [json.loads(line) for line in data[:len(data) - done]], done


def text_of(chunks, index=0):
    """The text of one choice of chat chunks."""
    parts = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]
             if choice["index"] == index]
    return "".join(parts)


def check_error(body, content_type="application/json"):
    """The error object inside a body, which must be exactly OpenAI's."""
    assert content_type.startswith("application/json"), content_type
    assert b"<html" not in body.lower()
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    return error
