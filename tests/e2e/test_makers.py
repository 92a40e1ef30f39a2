"""openai-python's and openai-node's own tests of chat, completions and models, pointed at the running server.

They are not part of this repository: openai-python's come with its source package, which pip fetches (its hash is below);
openai-node's are only in its repository on GitHub. Without a network, they are skipped; TANDEM_OPENAI_NODE names a
checkout of openai-node to take them from instead.

What does not apply is in NOT_SERVED, with its reason, and has to fail as it says there; everything else has to pass.
"""
import io
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import urllib.request
import xml.etree.ElementTree as ElementTree

import pytest

import node_packages
import tandem

PLACE = tandem.TOP / "build" / "makers"
PYTHON_PACKAGE = ("openai==3.52.0 --no-binary openai "
                  "--hash=sha256:258a4fec3e40b412c58672526ed33f20738c2e4ea27601792e73843af62466af")
NODE_TAG = "v6.49.0"  # as in node/package.json
NODE_ARCHIVE = f"https://codeload.github.com/openai/openai-node/tar.gz/refs/tags/{NODE_TAG}"
DOWNLOAD_SECONDS_MAX = 60

# File (the word before its ending), names of tests in both languages, HTTP status, reason.
NOT_SERVED = [
    ("chat", r"create_with_all_params|create: required and optional", 400,
     "sends every field there is, with values that mean nothing: audio, a web search, tools, the token 'foo', 0 tokens"),
    ("completions", r"create_with_all_params|create: required and optional", 400,
     "sends every field there is, with values that mean nothing: best of 0 answers, the token 'foo', a suffix"),
    ("chat", r"_(retrieve|update)$|^(retrieve|update.*)$", 405, "answers are not stored"),
    ("chat", r"_delete$|^delete$", 404, "no such answer is under way"),
    ("chat", r"_list(_with_all_params)?$|^list$", 405, "answers are not stored"),
    ("models", r"_delete$|^delete$", 405, "the model can not be deleted"),
]
# Raised before anything is sent: nothing to serve.
SENDS_NOTHING = re.compile(r"_path_params_")

PYTHON_FILES = {"chat": "chat/test_completions.py", "completions": "test_completions.py", "models": "test_models.py"}
NODE_FILES = {"chat": "chat/completions/completions.test.ts", "completions": "completions.test.ts",
              "models": "models.test.ts"}


def judge(resource, results):
    """results: name of a test to what it failed with, or None."""
    assert len(results) >= 2
    used, wrong = set(), {}
    for name, failure in results.items():
        plain = name.partition("[")[0]
        row = next((row for row in NOT_SERVED if row[0] == resource and re.search(row[1], plain)), None)
        if row is None or SENDS_NOTHING.search(plain):
            if failure:
                wrong[name] = failure[-2000:]
            continue
        used.add(row)
        if not failure or not re.search(rf"Error code: {row[2]}\b|^.*Error: {row[2]} |status: {row[2]}\b", failure):
            wrong[name] = f"should have failed with {row[2]} ({row[3]}), but: {failure and failure[-2000:]}"
    assert not wrong
    assert used == {row for row in NOT_SERVED if row[0] == resource}, "a row of NOT_SERVED fits no test"


@pytest.fixture
def serve_for(serve, tmp_path):
    """A server whose model has the name that a test file asks for: the first it mentions."""
    def start(text):
        name = re.search(r"""(?:model[=:] ?|retrieve\(\s*)["']([\w.-]+)["']""", text)[1]
        (tmp_path / name).mkdir()
        for file in tandem.MODEL.iterdir():
            (tmp_path / name / file.name).symlink_to(file)
        return serve(model=tmp_path / name)
    return start


@pytest.fixture(scope="module")
def python_source():
    place = PLACE / "openai-python"
    if not (place / "tests").is_dir():
        PLACE.mkdir(parents=True, exist_ok=True)
        (PLACE / "package.txt").write_text(PYTHON_PACKAGE)
        download = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
             "--disable-pip-version-check", "--dest", PLACE, "--requirement", PLACE / "package.txt"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=tandem.PATIENCE_S)
        if download.returncode:
            pytest.skip("pip could not fetch openai-python's source package, which has its tests: "
                        + download.stdout.strip().splitlines()[-1])
        (archive,) = PLACE.glob("openai-*.tar.gz")
        unpack(tarfile.open(archive), place)
    return place


def unpack(archive, place):
    """What is below the archive's one folder."""
    with archive:
        for member in archive.getmembers():
            _, _, name = member.name.partition("/")
            target = place / name
            if member.isfile() and ".." not in pathlib.PurePath(name).parts:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.extractfile(member).read())


@pytest.fixture(scope="module")
def node_source():
    node_packages.demand()
    if "TANDEM_OPENAI_NODE" in os.environ:
        return pathlib.Path(os.environ["TANDEM_OPENAI_NODE"])
    place = PLACE / f"openai-node-{NODE_TAG}"
    if not (place / "tests").is_dir():
        try:
            with urllib.request.urlopen(NODE_ARCHIVE, timeout=DOWNLOAD_SECONDS_MAX) as response:
                unpack(tarfile.open(fileobj=io.BytesIO(response.read())), place)
        except OSError as error:
            pytest.skip(f"openai-node's tests are only on GitHub, which can not be reached from here ({error})")
    return place


@pytest.mark.parametrize("resource", PYTHON_FILES)
def test_python(python_source, serve_for, tmp_path, resource):
    file = python_source / "tests/api_resources" / PYTHON_FILES[resource]
    report = tmp_path / "report.xml"
    server = serve_for(file.read_text())
    # Without its own options, which want several processes and every warning to be an error; without plugins but the one
    # that it needs, which take seconds to load, and the source around what fails, which takes as long to format.
    output = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin", "--tb", "line",
         "-o", "addopts=", "-o", "filterwarnings=", f"--junitxml={report}", file], cwd=python_source,
        env={**os.environ, "TEST_API_BASE_URL": f"{server.url}/v1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=tandem.PATIENCE_S)
    assert report.exists(), output.stdout
    results = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        failure = case.find("failure") if case.find("error") is None else case.find("error")
        assert case.find("skipped") is None, case.get("name")
        results[f"{case.get('name')} {case.get('classname')}"] = None if failure is None else failure.get("message")
    judge(resource, results)


@pytest.mark.parametrize("resource", NODE_FILES)
def test_node(node_source, serve_for, resource):
    text = (node_source / "tests/api-resources" / NODE_FILES[resource]).read_text()
    server = serve_for(text)
    (node_packages.PLACE / "jest.mjs").write_text((node_packages.SOURCE / "jest.mjs").read_text())
    judge(resource, node_packages.run_tests(f"{resource}.test.mjs", "import './jest.mjs';\n" + text,  # no types in it
                                            TEST_API_BASE_URL=f"{server.url}/v1"))
