"""API keys, from where they are set to what clients see; and that nobody else sees one."""
import os
import subprocess

import openai
import pytest
import yaml

import tandem
from conftest import client_of

DOCUMENT = yaml.safe_load(subprocess.check_output([tandem.BINARY, "help", "openapi"], text=True))
RIGHT, OTHER, WRONG = "sk-right-1234567890", "sk-other-0987654321", "sk-wrong-1234567890"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """One key from the environment and one from a file."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# for tests\n\n{OTHER}\n")
    server = tandem.Server("--api-key-file", path, "--log-level", "debug", environment={"TANDEM_API_KEY": RIGHT})
    yield server
    assert server.stop() == 0, server.log
    assert RIGHT not in server.log and OTHER not in server.log and WRONG not in server.log


def bearer(key):
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}


@pytest.mark.parametrize("key", [RIGHT, OTHER])
def test_right_key(guarded, key):
    client = client_of(guarded, api_key=key)
    assert client.models.list().data
    answer = client.chat.completions.create(model=tandem.MODEL.name, messages=[{"role": "user", "content": "Hello!"}], max_tokens=3)
    assert answer.choices[0].message.content
    assert guarded.request("GET", "/metrics", headers=bearer(key))[0] == 200


def test_wrong_key(guarded):
    client = client_of(guarded, api_key=WRONG)
    for call in (client.models.list, lambda: client.completions.create(model="any", prompt="Once", stream=True)):
        with pytest.raises(openai.AuthenticationError) as raised:
            call()
        error = raised.value
        assert error.status_code == 401 and error.code == "invalid_api_key" and error.type == "invalid_request_error"
        assert error.request_id and error.response.headers["www-authenticate"].startswith("Bearer ")
        assert WRONG not in error.message


def test_openapi_says_where_a_key_is_needed(guarded):
    """Path by path: `security: []` in the document is what is answered without one."""
    assert DOCUMENT["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    assert DOCUMENT["security"] == [{"apiKey": []}, {}]
    open_paths = set()
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            status, _, body = guarded.request(method.upper(), path.replace("{id}", tandem.MODEL.name), {} if method == "post" else None)
            assert (status == 401) == ("security" not in operation), (path, status)
            assert ("401" in operation["responses"]) == (status == 401), path
            if status == 401:
                assert tandem.check_error(body)["code"] == "invalid_api_key"
            else:
                assert operation["security"] == []
                open_paths.add(path)
    assert open_paths == {"/health", "/ready", "/openapi.yaml"}


def test_probe_needs_no_key(guarded):
    asked = subprocess.run([tandem.BINARY, "health", "--port", str(guarded.port)], capture_output=True, text=True)
    assert asked.returncode == 0 and '"ready"' in asked.stdout


def test_key_is_not_in_its_arguments(guarded):
    assert RIGHT.encode() not in (tandem.pathlib.Path("/proc") / str(guarded.process.pid) / "cmdline").read_bytes()


def start(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    return subprocess.Popen([tandem.BINARY, "serve", "--config", "none", "--model", tandem.MODEL, "--port", "0", *arguments],
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**clean, **environment})


def test_wrong_settings(tmp_path):
    """A server that was to have keys does not start without; and what is wrong with a key is said without the key."""
    (tmp_path / "empty").write_text("# none\n")
    (tmp_path / "bad").write_text(f"good\n{WRONG} and more\n")
    (tmp_path / "tandem.yaml").write_text(f"server:\n  # for tests\n  api_key: {WRONG} more\n")
    for arguments, environment, said in [
            (["--api-key-file", tmp_path / "none"], {}, "none"), (["--api-key-file", tmp_path / "empty"], {}, "found none"),
            (["--api-key-file", tmp_path / "bad"], {}, "bad:2: "), (["--api-key", f"{WRONG} more"], {}, "--api-key:1: "),
            ([], {"TANDEM_API_KEY": ""}, "TANDEM_API_KEY"), ([], {"TANDEM_API_KEY": ","}, "TANDEM_API_KEY: expected API keys, found none"),
            ([], {"TANDEM_API_KEY": f"good,{WRONG} more"}, "TANDEM_API_KEY:2: "),
            (["--config", tmp_path / "tandem.yaml"], {}, "tandem.yaml:3: server.api_key:1: "),
            ([], {"TANDEM_API_KEY_FILE": ""}, "TANDEM_API_KEY_FILE"),
            ([f"--api-kye={WRONG}"], {}, "did you mean --api-key?")]:
        process = start(*arguments, **environment)
        try:
            output, errors = process.communicate(timeout=tandem.PATIENCE_S)
        finally:
            process.kill()
        assert process.returncode == 64 and said in errors, errors
        assert WRONG not in output + errors


def banner(*arguments):
    """What is said when it starts, up to the example."""
    process = start(*arguments)
    said = "".join(iter(process.stdout.readline, "Try:\n"))
    said += process.stdout.readline()
    process.terminate()
    process.communicate(timeout=tandem.PATIENCE_S)
    return said


def test_who_may_use_it():
    """Said at the start: to nobody's surprise is it open to the whole network."""
    assert "\n  access   from this machine only, without an API key\n" in banner()
    said = banner("--host", "0.0.0.0")
    assert "\n  access   anyone who can reach 0.0.0.0:" in said
    assert " can use it: there are no API keys (--api-key-file)\n" in said and "Authorization" not in said
    said = banner("--host", "0.0.0.0", "--api-key", f"{RIGHT},{OTHER}")
    assert "\n  access   with one of 2 API keys\n" in said and "anyone" not in said and RIGHT not in said
    assert '-H "Authorization: Bearer $KEY"' in said


def test_who_may_use_it_in_the_log():
    process = start("--host", "0.0.0.0", "--log-format", "json")
    lines = [tandem.json.loads(process.stderr.readline()) for _ in range(2)]
    process.terminate()
    process.communicate(timeout=tandem.PATIENCE_S)
    assert lines[1]["level"] == "warning" and "anyone who can reach 0.0.0.0:" in lines[1]["message"]


def test_what_one_key_asked_another_does_not_find(guarded):
    """How fast an answer comes would tell what somebody else has asked."""
    question = [{"role": "user", "content": "What is the capital of France? " * 12}]

    def cached(key):
        answer = client_of(guarded, api_key=key).chat.completions.create(
            model=tandem.MODEL.name, messages=question, max_tokens=3, temperature=0)
        return answer.usage.prompt_tokens_details.cached_tokens

    assert cached(RIGHT) == 0 and cached(RIGHT) > 0
    assert cached(OTHER) == 0 and cached(OTHER) > 0
