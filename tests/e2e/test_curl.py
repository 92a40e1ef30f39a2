"""What a person sees who tries the server with curl."""
import json
import subprocess

import pytest

import tandem


def curl(*arguments):
    return subprocess.run(["curl", "--silent", "--show-error", "--max-time", str(tandem.PATIENCE_S), *arguments],
                          capture_output=True, check=True).stdout


def post(server, path, body, *arguments):
    return curl(f"{server.url}{path}", "-H", "Content-Type: application/json", "-d", json.dumps(body), *arguments)


def test_chat(server):
    answer = json.loads(post(server, "/v1/chat/completions", tandem.chat("Hello!")))
    assert answer["object"] == "chat.completion" and answer["id"].startswith("chatcmpl-")
    assert answer["model"] == tandem.MODEL.name and isinstance(answer["created"], int)
    assert "system_fingerprint" in answer
    (choice,) = answer["choices"]
    assert choice["index"] == 0 and choice["finish_reason"] in ("stop", "length")
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"]
    assert choice["message"]["refusal"] is None and choice["logprobs"] is None
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= 24
    assert 0 <= usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]
    assert answer["timings"]


def test_curl_without_a_content_type(server):
    """curl -d alone calls its body a form; only a web page, which tells its Origin, has to say JSON."""
    body = json.dumps(tandem.chat("Hello!"))
    assert json.loads(curl(f"{server.url}/v1/chat/completions", "-d", body))["object"] == "chat.completion"
    refused = json.loads(curl(f"{server.url}/v1/chat/completions", "-d", body, "-H", "Origin: http://evil.example"))
    assert "Content-Type" in refused["error"]["message"]


def test_chat_stream(server):
    body = tandem.chat("Hello!", stream=True, stream_options={"include_usage": True})
    raw = post(server, "/v1/chat/completions", body, "-N")
    assert all(line.startswith((b"data: ", b": ")) for line in raw.split(b"\n\n") if line)
    chunks, done = tandem.events(raw)
    assert done and len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    deltas = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert [delta["delta"].get("role") for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert [delta["finish_reason"] is None for delta in deltas] == [True] * (len(deltas) - 1) + [False]
    assert deltas[-1]["delta"] == {}
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 0
    assert tandem.text_of(chunks) == server.say("Hello!")


def test_completion(server):
    answer = json.loads(post(server, "/v1/completions", {"model": tandem.MODEL.name, "prompt": "Once upon a time",
                                                         "max_tokens": 8, "temperature": 0}))
    assert answer["object"] == "text_completion"
    (choice,) = answer["choices"]
    assert isinstance(choice["text"], str) and choice["logprobs"] is None and choice["finish_reason"] in ("stop", "length")


def test_completion_stream(server):
    body = {"model": tandem.MODEL.name, "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
    whole = json.loads(post(server, "/v1/completions", body))["choices"][0]["text"]
    chunks, done = tandem.events(post(server, "/v1/completions", {**body, "stream": True}, "-N"))
    assert done and {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole


def test_headers(server):
    head, _, _ = post(server, "/v1/chat/completions", tandem.chat("Hello!"), "-i").partition(b"\r\n\r\n")
    head = head.lower()
    assert b"content-type: application/json" in head and b"x-request-id: " in head
    head, _, _ = post(server, "/v1/chat/completions", tandem.chat("Hello!", stream=True), "-i", "-N").partition(b"\r\n\r\n")
    head = head.lower()
    assert b"content-type: text/event-stream" in head and b"cache-control: no-cache" in head
    assert b"x-request-id: " in head


def test_expect_100_continue(server):
    body = tandem.chat("Hello!", user="u" * 4000)
    answer = json.loads(post(server, "/v1/chat/completions", body, "-H", "Expect: 100-continue"))
    assert answer["choices"][0]["message"]["content"] == server.say("Hello!")


def test_chunked_upload(server):
    answer = json.loads(post(server, "/v1/chat/completions", tandem.chat("Hello!"), "-H", "Transfer-Encoding: chunked"))
    assert answer["choices"][0]["message"]["content"] == server.say("Hello!")


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/v1/models/", f"/v1/models/{tandem.MODEL.name}"])
def test_get(server, path):
    status, headers, body = server.request("GET", path)
    assert status == 200 and headers["Content-Type"].startswith("application/json")
    assert headers["x-request-id"] and json.loads(body)
    status, headers, body = server.request("HEAD", path)
    assert status == 200 and body == b""


def test_models(server):
    listed = json.loads(curl(f"{server.url}/v1/models"))
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert model["id"] == tandem.MODEL.name and model["object"] == "model"
    assert isinstance(model["created"], int) and model["owned_by"]
    assert json.loads(curl(f"{server.url}/v1/models/{tandem.MODEL.name}")) == model


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/nothing", 404), ("POST", "/v2/chat/completions", 404), ("GET", "/v1/models/other", 404),
    ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404), ("GET", "/v1/models/a%00b", None), ("GET", "/v1/chat/completions", 405),
    ("DELETE", "/v1/models", 405), ("POST", "/health", 405), ("PUT", "/v1/completions", 405), ("PATCH", "/health", 405)])
def test_wrong_places(server, method, path, status):
    got, headers, body = server.request(method, path)
    assert got == status or status is None and got in (400, 404)
    tandem.check_error(body, headers["Content-Type"])
    assert headers["x-request-id"]
    if status == 405:
        assert headers["Allow"]


def test_wrong_content_type(server):
    body = json.dumps(tandem.chat("Hello!"))
    status, headers, answer = server.request("POST", "/v1/chat/completions", body, {"Content-Type": "text/plain"})
    assert status == 415
    tandem.check_error(answer, headers["Content-Type"])


@pytest.mark.parametrize("encoding, expected", [("gzip", 415), ("identity", 200)])
def test_content_encoding(server, encoding, expected):
    body = json.dumps(tandem.chat("Hello!", max_tokens=1))
    status, headers, answer = server.request("POST", "/v1/chat/completions", body,
                                             {"Content-Type": "application/json", "Content-Encoding": encoding})
    assert status == expected
    if expected != 200:
        tandem.check_error(answer, headers["Content-Type"])
        assert b"gzip" in answer


def test_foreign_host_is_refused(server):
    status, headers, body = server.request("GET", "/health", headers={"Host": "attacker.example"})
    assert status == 403
    tandem.check_error(body, headers["Content-Type"])
    message = tandem.check_error(body)["message"]
    assert "it takes localhost, 127.0.0.1 and [::1]. To" in message and "--host 0.0.0.0" in message
    assert server.request("GET", "/health", headers={"Host": f"localhost:{server.port}"})[0] == 200


def test_prompts_are_not_logged(server):
    server.say("My secret word is Quetzalcoatl.")
    assert "Quetzalcoatl" not in server.log


PAGE = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang"}


def test_web_pages_may_not_ask(server):
    status, headers, body = server.request("OPTIONS", "/v1/chat/completions", headers=PAGE)
    assert status == 405 and headers["Allow"] == "POST"
    tandem.check_error(body, headers["Content-Type"])
    for status, headers, _ in (server.request("GET", "/v1/models", headers={"Origin": PAGE["Origin"]}),
                               server.request("POST", "/v1/chat/completions", tandem.chat("Hello!"))):
        assert status == 200 and not [name for name in headers if name.startswith("Access-Control-")]


@pytest.mark.parametrize("origin", ["http://localhost:3000", "*"])
def test_web_pages_may_ask(serve, origin):
    server = serve("--cors-origin", origin)
    status, headers, body = server.request("OPTIONS", "/v1/chat/completions", headers=PAGE)
    assert status == 204 and body == b"" and headers["Access-Control-Allow-Origin"] == origin
    assert {"GET", "POST", "DELETE"} <= set(headers["Access-Control-Allow-Methods"].split(", "))
    assert headers["Access-Control-Allow-Headers"] == PAGE["Access-Control-Request-Headers"]
    plain = {"Origin": PAGE["Origin"], "Content-Type": "application/json"}
    for wanted, body in ((200, tandem.chat("Hello!")), (200, tandem.chat("Hello!", stream=True)), (400, {})):
        status, headers, _ = server.request("POST", "/v1/chat/completions", body, plain)
        assert status == wanted and headers["Access-Control-Allow-Origin"] == origin
        assert "x-request-id" in headers["Access-Control-Expose-Headers"]
        assert headers["Vary"] == (None if origin == "*" else "Origin")
    assert server.request("OPTIONS", "/nothing", headers=PAGE)[0] == 404
    assert server.request("OPTIONS", "/v1/chat/completions")[0] == 405  # no page is asking
    assert server.request("OPTIONS", "/v1/chat/completions", headers={**PAGE, "Host": "attacker.example"})[0] == 403


@pytest.mark.parametrize("origin", ["localhost:3000", "http://localhost:3000/", "http://a http://b"])
def test_wrong_origin(origin):
    run = subprocess.run([tandem.BINARY, "serve", "--port", "0", "--cors-origin", origin], capture_output=True, text=True)
    assert run.returncode == 64 and origin in run.stderr and "http://localhost:3000" in run.stderr


def test_authorization_is_not_looked_at(server):
    assert server.request("GET", "/v1/models", headers={"Authorization": "Bearer sk-anything"})[0] == 200
    body = tandem.chat("Hello!")
    headers = {"Content-Type": "application/json; charset=utf-8", "Authorization": "Basic Og=="}
    assert server.request("POST", "/v1/chat/completions", body, headers)[0] == 200


def test_base_url_without_v1(server):
    status, headers, body = server.request("POST", "/chat/completions", tandem.chat("Hello!"))
    assert status == 404 and "/v1/chat/completions" in tandem.check_error(body, headers["Content-Type"])["message"]
    assert server.request("POST", "/v1/chat/completions/", tandem.chat("Hello!"))[0] == 200
