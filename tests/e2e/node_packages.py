"""Node and the packages of tests/e2e/node/package.json, installed into build/node, where the tests are copied and run."""
import fcntl
import functools
import os
import pathlib
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

import tandem

SOURCE = pathlib.Path(__file__).parent / "node"
PLACE = tandem.TOP / "build" / "node"
NODE_MIN = 20


@functools.cache
def why_not():
    """What keeps the tests from running; None: nothing, and the packages are installed. One process at a time."""
    PLACE.parent.mkdir(exist_ok=True)
    with open(PLACE.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return install()


def install():
    if not shutil.which("node") or not shutil.which("npm"):
        return f"there is no Node with npm (at least {NODE_MIN}) on this machine"
    version = subprocess.check_output(["node", "--version"], text=True).strip()
    if int(re.match(r"v(\d+)", version)[1]) < NODE_MIN:
        return f"Node is {version}, the openai package wants {NODE_MIN}"
    pins, made_of = SOURCE / "package.json", PLACE / "package.json"
    if made_of.exists() and made_of.read_bytes() == pins.read_bytes() and (PLACE / "node_modules/openai").is_dir():
        return None
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    shutil.copy(pins, made_of)
    done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--fetch-retries=1",
                              "--fetch-retry-mintimeout=1000"], cwd=PLACE, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=tandem.PATIENCE_S)
    if done.returncode == 0:
        return None
    made_of.unlink()
    why = re.search(r"^npm err\S* (.*)", done.stdout, re.MULTILINE | re.IGNORECASE)
    return f"npm could not install the openai package ({why[1] if why else done.returncode})"


def demand():
    if why_not():
        pytest.skip(why_not())


def run(*arguments, **environment):
    """Of a program in build/node, for which files were copied there."""
    return subprocess.run(["node", *arguments], cwd=PLACE, env={**os.environ, **environment}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=tandem.PATIENCE_S)


def run_tests(name, text, **environment):
    """What became of each test of a file for node:test: its name and what it failed with (None: it passed)."""
    file, report = PLACE / name, PLACE / f"{name}.xml"
    file.write_text(text)
    report.unlink(missing_ok=True)
    output = run("--test", "--test-reporter=junit", f"--test-reporter-destination={report}", name, **environment)
    assert report.exists(), output.stdout
    cases = ElementTree.parse(report).getroot().iter("testcase")
    return {case.get("name"): next(("".join(failure.itertext()) for failure in case.iter("failure")), None)
            for case in cases}
