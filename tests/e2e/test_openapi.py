"""The server's own description of itself, and Schemathesis, which makes requests up from it: those that the document
allows and those that it forbids. Never a 5xx, always a valid error object, answers as the document says, what it forbids
is refused, and what it allows is not, but for the reasons in RULES_BETWEEN_FIELDS.

By hand, for longer and with other requests each time: TANDEM_EXAMPLES=2000 pytest tests/e2e/test_openapi.py
"""
import collections
import json
import os
import re
import subprocess

import hypothesis
import jsonschema_rs
import pytest
import schemathesis
import schemathesis.openapi
import yaml
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

import tandem

BY_HAND = "TANDEM_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("TANDEM_EXAMPLES", 60))  # of each endpoint

# Why a request that fits the document may still be refused: facts of the model and rules between two fields, which no
# schema says. By the parameter that the error names.
RULES_BETWEEN_FIELDS = {
    "model": "there is one model, and its name is not in the document",
    "logit_bias": "the vocabulary has an end",
    "prompt": "the vocabulary has an end; so have the context and the places",
    "messages": "the context has an end",
    "n": "there are so many places",
    "max_tokens": "must agree with max_completion_tokens and fit the context",
    "max_completion_tokens": "must fit the context",
    "repetition_penalty": "must agree with repeat_penalty",
    "best_of": "must equal n",
    "top_logprobs": "needs logprobs",
    "stream_options": "include_usage needs stream",
    "stop": "its limit is in bytes",
}


DOCUMENT = subprocess.check_output([tandem.BINARY, "help", "openapi"], text=True)
API = schemathesis.openapi.from_dict(yaml.safe_load(DOCUMENT))
API.config.generation.update(allow_x00=False)  # a NUL is refused wherever it stands


def test_document_is_served(server):
    status, headers, body = server.request("GET", "/openapi.yaml")
    assert status == 200 and headers["Content-Type"] == "application/yaml" and body.decode() == DOCUMENT


def test_document_is_valid():
    API.validate()


def test_document_has_every_endpoint(server):
    listed = {(row["method"].lower(), row["path"]) for row in json.loads(server.request("GET", "/")[2])["endpoints"]}
    described = {(method, path) for path, methods in yaml.safe_load(DOCUMENT)["paths"].items() for method in methods}
    assert described == listed


def validator(name):
    whole = yaml.safe_load(DOCUMENT)
    return jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": whole["components"]})


@pytest.mark.parametrize("path, name, options", [
    ("/v1/chat/completions", "ChatCompletionChunk", {}),
    ("/v1/chat/completions", "ChatCompletionChunk", {"logprobs": True, "top_logprobs": 3, "n": 2}),
    ("/v1/completions", "CompletionChunk", {}),
    ("/v1/completions", "CompletionChunk", {"logprobs": 3, "echo": True}),
])
@pytest.mark.parametrize("usage", [False, True])
def test_chunks(server, path, name, options, usage):
    prompt = {"prompt": "Hello!"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "Hello!"}]}
    body = {**prompt, **options, "stream": True, "max_tokens": 5, "ignore_eos": True,
            "stream_options": {"include_usage": usage}}
    chunks, done = tandem.events(server.request("POST", path, body)[2])
    assert done and len(chunks) > 2
    check = validator(name)
    for chunk in chunks:
        check.validate(chunk)


def is_allowed(case):
    return case.meta.generation.mode == GenerationMode.POSITIVE


def keep_short(case):
    """What takes long adds nothing here: few tokens. Of two names of one thing one is kept, and the model is the model."""
    body = case.body
    if case.operation.method != "post" or not is_allowed(case) or not isinstance(body, dict):
        return
    limit = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    body[limit] = min(4 if body.get(limit) is None else body[limit], 4)
    for kept, dropped in ((limit, "max_tokens"), ("repeat_penalty", "repetition_penalty"), ("n", "best_of"), ("", "model")):
        if kept != dropped and (not kept or body.get(kept) is not None):
            body.pop(dropped, None)


@pytest.fixture(scope="module")
def allowed():
    """How many of the allowed requests were accepted (True) and not (False)."""
    counts = collections.Counter()
    yield counts
    assert counts[True] > counts[False] > 0, counts


def check_acceptance(case, response, allowed):
    if is_allowed(case) and case.operation.method == "post":
        allowed[response.status_code == 200] += 1
    if not is_allowed(case) or response.status_code == 200:
        return
    error = response.json()["error"]
    if "a number is too large" in error["message"]:
        return  # of more than 64 bits, where the document leaves open what may stand
    named = error["param"] and error["param"].split(".")[0].split("[")[0]
    assert case.path_parameters or named in RULES_BETWEEN_FIELDS, error


def made_up_requests(method, path):
    @API.include(method=method.upper(), path=path).parametrize()
    @hypothesis.settings(max_examples=EXAMPLES, derandomize=not BY_HAND, database=None, deadline=None,
                         suppress_health_check=list(hypothesis.HealthCheck))
    def test(server, allowed, case):
        keep_short(case)
        response = case.call(base_url=server.url, timeout=tandem.PATIENCE_S)
        checks = [check for check in CHECKS.get_all() if check.__name__ != "positive_data_acceptance"]
        case.validate_response(response, checks=checks)
        assert response.headers["x-request-id"]
        if response.status_code >= 400:
            tandem.check_error(response.content, response.headers["content-type"][0])
        check_acceptance(case, response, allowed)
    return test


# A test of its own for each: Schemathesis gives all that come of one function the same name.
for path, methods in yaml.safe_load(DOCUMENT)["paths"].items():
    for method in methods:
        globals()[f"test_made_up_{method}{re.sub('[^a-z0-9]+', '_', path)}"] = made_up_requests(method, path)
