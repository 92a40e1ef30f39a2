"""What the server tells of itself while it runs: /metrics as Prometheus reads it, the dashboard that draws it, Server-Timing,
and the log as JSON."""
import json
import re
import threading

import pytest

import tandem

parser = pytest.importorskip("prometheus_client.parser", reason="the prometheus-client package is not installed")

DASHBOARD = tandem.TOP / "packaging" / "grafana" / "tandem.json"
CHAT = "/v1/chat/completions"


class Metrics:
    """One look at /metrics, as Prometheus' own package reads it."""

    def __init__(self, server):
        status, headers, body = server.request("GET", "/metrics")
        assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        self.families = {family.name: family for family in parser.text_string_to_metric_families(body.decode())}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def __call__(self, name, **labels):
        """The value of one series; 0: it has not happened yet."""
        found = [sample.value for sample in self.samples if sample.name == name and sample.labels == labels]
        assert len(found) <= 1, (name, labels)
        return found[0] if found else 0

    def requests(self, path, status):
        return self("tandem_requests_total", route=path, status=str(status))


def wait_for(server, name, value, **labels):
    """A request is counted when its answer is out, so a client may be first."""
    server.wait_until(lambda: Metrics(server)(name, **labels) == value)


def test_form(server):
    """A type and words for every metric, under a name of its own, none twice; and what it says is in `tandem help metrics`."""
    metrics = Metrics(server)
    assert len(metrics.families) > 20
    keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in metrics.samples]
    assert len(keys) == len(set(keys))
    told = tandem.subprocess.check_output([tandem.BINARY, "help", "metrics"], text=True)
    for family in metrics.families.values():
        assert family.type in ("counter", "gauge", "histogram") and family.documentation and family.samples
        name = family.name + "_total" * (family.type == "counter")
        assert re.search(rf"^{name} \({family.type}\)$", told, re.MULTILINE), name


def test_histograms(server):
    """Buckets grow, the last has everything, and their bounds rise to infinity."""
    server.say()
    for family in Metrics(server).families.values():
        if family.type != "histogram":
            continue
        buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
        bounds = [float(bucket.labels["le"]) for bucket in buckets]
        assert bounds == sorted(set(bounds)) and bounds[-1] == float("inf")
        counts = [bucket.value for bucket in buckets]
        assert counts == sorted(counts)
        (count,) = [sample.value for sample in family.samples if sample.name.endswith("_count")]
        (total,) = [sample.value for sample in family.samples if sample.name.endswith("_sum")]
        assert count == counts[-1] and total >= 0 and (total > 0 or "queue" in family.name)


def test_counts(serve):
    """Every number after a handful of requests of each kind, against what their answers say."""
    server = serve()
    usages = [server.post(CHAT, tandem.chat("Hello!", max_tokens=tokens, n=n, temperature=1, seed=1, ignore_eos=True))["usage"]
              for tokens, n in ((5, 1), (3, 2))]
    _, _, stream = server.request("POST", CHAT, tandem.chat("Hello!", max_tokens=7, stream=True, ignore_eos=True,
                                                            stream_options={"include_usage": True}))
    usages.append(tandem.events(stream)[0][-1]["usage"])
    usages.append(server.post("/v1/completions", {"prompt": "Once", "max_tokens": 4, "ignore_eos": True})["usage"])
    assert server.request("POST", CHAT, {"messages": []})[0] == 400
    assert server.request("GET", "/v1/models/other")[0] == 404
    assert server.request("GET", "/v1/models/a/b")[0] == 404
    assert server.request("GET", "/nowhere")[0] == 404
    answers = sum(usage["completion_tokens"] for usage in usages)
    wait_for(server, "tandem_generations_total", 4, outcome="length")
    wait_for(server, "tandem_requests_total", 1, route="other", status="404")
    metrics = Metrics(server)
    assert (metrics.requests(CHAT, 200), metrics.requests(CHAT, 400), metrics.requests("/v1/completions", 200)) == (3, 1, 1)
    assert metrics.requests("/v1/models/{id}", 404) == 2 and metrics.requests("/health", 200) == 0
    assert metrics("tandem_prompt_tokens_total") == sum(usage["prompt_tokens"] for usage in usages)
    assert metrics("tandem_completion_tokens_total") == metrics("tandem_engine_completion_tokens_total") == answers
    assert metrics("tandem_time_to_first_token_seconds_count") == metrics("tandem_generation_duration_seconds_count") == 4
    assert metrics("tandem_queue_duration_seconds_count") == 5  # n=2 is two
    assert metrics("tandem_time_between_tokens_seconds_count") == answers - 5
    assert metrics("tandem_engine_steps_total") > 5
    first, last = metrics("tandem_time_to_first_token_seconds_sum"), metrics("tandem_generation_duration_seconds_sum")
    assert 0 < first < last
    assert metrics("tandem_requests_in_progress") == 1 and metrics("tandem_connections") >= 1  # this one


def test_prefix_cache(serve):
    """What a second prompt finds of the first is told here as in its answer's usage, and so is where it lies."""
    server = serve()
    assert Metrics(server)("tandem_kv_pages_kept") == 0
    usages = [server.post(CHAT, tandem.chat("Tell me a story. " * 20 + end, max_tokens=2))["usage"] for end in ("One.", "Two.")]
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
    assert cached[0] == 0 < cached[1]
    server.wait_for_idle()
    metrics = Metrics(server)
    assert metrics("tandem_engine_cached_tokens_total") == cached[1]
    assert metrics("tandem_engine_prompt_tokens_total") == sum(usage["prompt_tokens"] for usage in usages) - cached[1]
    assert metrics("tandem_kv_pages_used") == 0 < metrics("tandem_kv_pages_kept") <= metrics("tandem_kv_pages")


def test_state(serve):
    """Gauges rise with what is held and fall when it ends; those that left are told apart."""
    server = serve("--max-sequences", "1", "--queue", "5")
    connection = server.held_stream()
    waiting = server.connect()
    waiting.sendall(tandem.http_post(CHAT, tandem.chat("Hello!")))
    server.wait_for_waiting(1)
    wait_for(server, "tandem_connections", 3)  # those two and the one that asks; earlier ones may still be closing
    held = Metrics(server)
    assert (held("tandem_sequences_running"), held("tandem_sequences_max")) == (1, 1)
    assert (held("tandem_queue_length"), held("tandem_queue_max")) == (1, 5)
    assert 0 < held("tandem_kv_pages_used") < held("tandem_kv_pages")
    assert held("tandem_connections_max") > 100
    waiting.close()
    wait_for(server, "tandem_requests_total", 1, route=CHAT, status="499")
    connection.close()
    wait_for(server, "tandem_generations_total", 2, outcome="cancelled")
    wait_for(server, "tandem_sequences_running", 0)
    wait_for(server, "tandem_connections", 1)
    assert Metrics(server)("tandem_kv_pages_used") <= held("tandem_kv_pages_used")


def test_process(server):
    metrics = Metrics(server)
    folder = tandem.pathlib.Path("/proc") / str(server.process.pid)
    resident = int(re.search(r"VmRSS:\s+(\d+) kB", (folder / "status").read_text())[1]) * 1024
    assert resident / 1.5 < metrics("process_resident_memory_bytes") < resident * 1.5
    assert 3 < metrics("process_open_fds") <= metrics("process_max_fds")
    assert metrics("process_cpu_seconds_total") > 0 and metrics("process_virtual_memory_bytes") > resident
    assert 0 < tandem.time.time() - metrics("process_start_time_seconds") < 3600
    assert Metrics(server)("process_start_time_seconds") == metrics("process_start_time_seconds")


def test_many_clients(serve):
    """No request and no token is lost where many come at once, some look at the numbers and some leave."""
    server, each, clients = serve(), 6, 8
    answers = []

    def use():
        for number in range(each):
            answers.append(server.post(CHAT, tandem.chat("Hello!", max_tokens=4, ignore_eos=True))["usage"]["completion_tokens"])
            assert Metrics(server).requests(CHAT, 200) > 0
            if number % 3 == 0:
                server.open_stream(max_tokens=200, ignore_eos=True)[0].close()

    threads = [threading.Thread(target=use) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = clients * (each // 3)
    assert len(answers) == each * clients
    wait_for(server, "tandem_requests_total", each * clients + left, route=CHAT, status="200")
    metrics = Metrics(server)
    ended = {outcome: metrics("tandem_generations_total", outcome=outcome) for outcome in ("stop", "length", "error", "refused", "cancelled")}
    assert sum(ended.values()) == each * clients + left and ended["error"] == 0 and ended["length"] >= each * clients
    assert metrics("tandem_completion_tokens_total") >= sum(answers)
    assert metrics("tandem_time_to_first_token_seconds_count") == each * clients + left


# ---- The dashboard

def queries():
    board = json.loads(DASHBOARD.read_text())
    texts = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return texts + [variable["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]


def test_dashboard_asks_for_what_there_is(server):
    """Every metric it names is served, with the labels by which it is chosen, grouped and told."""
    server.say()
    wait_for_some = {"tandem_generations_total", "tandem_requests_total"}
    labels = {}
    for sample in Metrics(server).samples:
        labels.setdefault(sample.name, set()).update(sample.labels)
    asked = set()
    for query in queries():
        names = re.findall(r"\b((?:tandem|process)_\w+)", query)
        assert names, query
        for name in names:
            assert name in labels, f"{name} in: {query}"
        known = set().union(*(labels[name] for name in names)) | {"instance", "job"}
        used = re.findall(r"[{,]\s*(\w+)(?==|!)", query) + [word for group in re.findall(r"by \(([^)]*)\)", query)
                                                           for word in re.split(r"[ ,]+", group)]
        assert set(used) <= known, query
        asked.update(names)
    assert wait_for_some <= asked and len(asked) > 20


def test_dashboard_is_whole():
    """Panels have a place each and overlap nowhere; what they put in names is a label."""
    board = json.loads(DASHBOARD.read_text())
    assert board["title"] == "Tandem" and {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "instance"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}" and panel["targets"]
        for target in panel["targets"]:
            assert 'instance=~"$instance"' in target["expr"] and target["datasource"] == panel["datasource"]


# ---- Headers and the log

def test_server_timing(server):
    """Of an answer that comes whole: its parts, which agree with what its body says; of a stream: until it began."""
    form = r"(?:(\w+);dur=(\d+\.\d)(?:, |$))"
    status, headers, body = server.request("POST", CHAT, tandem.chat("Hello!", max_tokens=8, ignore_eos=True))
    timing = {name: float(ms) for name, ms in re.findall(form, headers["Server-Timing"])}
    assert status == 200 and list(timing) == ["queue", "prompt", "decode", "total"]
    timings = json.loads(body)["timings"]
    assert all(abs(timing[part] - 1000 * timings[f"{part}_seconds"]) < 0.06 for part in ("queue", "prompt", "decode"))
    assert timing["total"] + 0.2 >= timing["queue"] + timing["prompt"] + timing["decode"] > 0
    _, headers, _ = server.request("POST", CHAT, tandem.chat("Hello!", stream=True))
    assert re.fullmatch(r"total;dur=\d+\.\d", headers["Server-Timing"])


def test_log_as_json(serve):
    """Every line of what the program prints is an object, whatever clients say; one for each request."""
    server = serve("--log-format", "json", "--log-level", "debug")
    usage = server.post(CHAT, tandem.chat("a secret", max_tokens=3, ignore_eos=True))["usage"]
    server.request("GET", "/health", headers={"x-request-id": "mine-1", "User-Agent": 'an "agent"\\'})
    server.request("GET", '/v1/models/"%22\\%0a', headers={})
    connection = server.connect()
    connection.sendall(b'GET /"\\\xff HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: \xff"\\\r\nConnection: close\r\n\r\n')
    tandem.read_all(connection)
    connection = server.connect()
    connection.sendall(b'NONSENSE "\x1b[31m\\ \r\n\r\n')
    tandem.read_all(connection)
    server.wait_until(lambda: server.log.count('"status":') == 5)
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    assert server.url in lines[0]["message"] and lines[-1]["message"] == "stopped"
    start = lines[0]
    assert f"http://{start['address']}" == server.url and start["settings"] == "none (--config none)"
    assert (start["model"], start["model_path"]) == (tandem.MODEL.name, str(tandem.MODEL))
    assert (start["architecture"], start["weights"], start["parameters"]) == ("phimoe", "bf16", 5398400)
    assert start["threads"] >= 1 and start["kv_tokens"] >= start["context_tokens"] == 2048 and start["api_keys"] == 0
    chat, health, model, strange, nonsense = [line for line in lines if "status" in line]
    assert (chat["route"], chat["status"], chat["client"], chat["finish"]) == (CHAT, 200, "127.0.0.1", "length")
    assert (chat["prompt_tokens"], chat["completion_tokens"]) == (usage["prompt_tokens"], 3) and chat["duration_ms"] >= 0
    assert health["request_id"] == "mine-1" and health["level"] == "debug" and health["method"] == "GET"
    assert model["status"] == 404 and model["route"] == "/v1/models/{id}" and model["target"].startswith('/v1/models/"')
    assert strange["status"] in (400, 404) and nonsense["status"] == 400 and nonsense["request_id"]
    assert "secret" not in server.log and "\x1b" not in server.log
