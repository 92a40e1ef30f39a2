"""What ./run and ./check do before anything is built: with an apt, an id and a sudo that only write down their calls."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

import tandem

NEED = '"command no-such-tool|the-package|for a test" "command bash|bash|is there"'


@pytest.fixture
def machine(tmp_path):
    """A machine of cardboard: machine(user, programs) runs install_missing there and tells status, words and calls."""
    def run(user, programs):
        place = tmp_path / "bin"
        place.mkdir()
        for name in ("bash", "cat", "mkdir", "tail", "env"):
            (place / name).symlink_to(f"/usr/bin/{name}" if os.path.exists(f"/usr/bin/{name}") else f"/bin/{name}")
        write = {"apt-get": f'echo "apt-get $*" >>{tmp_path}/calls', "id": f"echo {user}",
                 "sudo": f'echo sudo >>{tmp_path}/calls; "$@"'}
        for name in programs:
            (place / name).write_text(f"#!/bin/bash\n{write[name]}\n")
            (place / name).chmod(0o755)
        script = f'set -eu; root={tmp_path}; . {tandem.TOP}/tools/setup.sh; install_missing {NEED}'
        done = subprocess.run(["/bin/bash", "-c", script], env={"PATH": str(place)}, capture_output=True, text=True)
        calls = tmp_path / "calls"
        return done.returncode, done.stderr, calls.read_text() if calls.exists() else ""
    return run


def test_root_installs_only_what_is_missing(machine):
    status, words, calls = machine(0, ["apt-get", "id"])
    assert status == 0 and "the-package" in words and "for a test" in words and "is there" not in words
    assert "install -y --no-install-recommends the-package\n" in calls and "sudo" not in calls


def test_a_user_is_asked_through_sudo(machine):
    status, words, calls = machine(1000, ["apt-get", "id", "sudo"])
    assert status == 0 and "password" in words and calls.startswith("sudo\n") and "the-package" in calls


def test_a_user_without_sudo_is_told_what_to_do(machine):
    status, words, calls = machine(1000, ["apt-get", "id"])
    assert status == 1 and "apt-get install the-package" in words and calls == ""


def test_another_system_is_told_what_is_needed(machine):
    status, words, calls = machine(0, ["id"])
    assert status == 1 and "no apt" in words and "the-package" in words and calls == ""
    assert "dnf install the-package\n" in words and "pacman -S --needed the-package\n" in words


def setup(script, **environment):
    return subprocess.run(["/bin/bash", "-c", f"root=/nowhere; . {tandem.TOP}/tools/setup.sh; {script}"], text=True,
                          env={**os.environ, **environment}, capture_output=True)


def test_packages_of_other_systems():
    assert setup("translated fedora libuv1-dev meson").stdout == "libuv-devel meson\n"
    assert setup("translated arch libuv1-dev meson").stdout == "libuv meson\n"
    rows = setup('printf "%s\\n" "${needs_of_build[@]}" "${needs_of_tests[@]}"').stdout.split("\n")[:-1]
    packages = {row.split("|")[1] for row in rows}
    for system in ("fedora", "arch"):  # what only Debian has, is translated, and nothing else
        names = setup(f'printf "%s\\n" "${{!{system}[@]}}"').stdout.split()
        assert set(names) <= packages and {name for name in packages if name.endswith("-dev")} <= set(names)


def test_what_can_not_be_told_is_not_called_missing(tmp_path):
    for name in ("bash", "cat"):
        (tmp_path / name).symlink_to(shutil.which(name))
    words = setup('install_missing "library libuv|libuv1-dev|the event loop"', PATH=str(tmp_path)).stderr
    assert "the event loop (perhaps it is there" in words


TREE = ("run", "tools/setup.sh")


@pytest.fixture
def source(tmp_path):
    """The scripts alone, with programs of cardboard in front of this machine's: source(arguments, name=script…)."""
    for name in TREE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(tandem.TOP / name, tmp_path / name)
    (tmp_path / "bin").mkdir()

    def start(*arguments, **programs):
        for name, script in programs.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        return subprocess.Popen([tmp_path / "run", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                start_new_session=True, stdin=subprocess.DEVNULL,
                                env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    return start


BUILDER = "echo noise; exit 0"


@pytest.mark.parametrize("tell, sign, code", [(os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGTERM, 143)])
@pytest.mark.parametrize("slow", ["meson", "ninja"])
def test_an_interrupted_build(source, tmp_path, slow, tell, sign, code):
    """A terminal tells all of the group, `kill` the script alone: whatever builds ends, too."""
    programs = {"meson": BUILDER, "ninja": BUILDER, "pkg-config": "exit 0", "gcc": "exit 0"}
    programs[slow] = f"trap 'exit 2' INT; echo noise; echo $$ > {tmp_path}/begun; while :; do sleep 0.01; done"
    running = source(**programs)
    begun = tmp_path / "begun"
    while not begun.exists() or not begun.read_text():
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    tell(running.pid, sign)
    _, words = running.communicate(timeout=tandem.PATIENCE_S)
    assert running.returncode == code and words.splitlines()[1:] == ["interrupted"]
    assert not pathlib.Path("/proc", begun.read_text().strip()).exists()


def test_a_failed_build_tells_all(source):
    running = source(meson="echo what is wrong; exit 1", ninja=BUILDER, gcc="exit 0", **{"pkg-config": "exit 0"})
    _, words = running.communicate(timeout=tandem.PATIENCE_S)
    assert running.returncode == 1 and "what is wrong" in words and "stands above" in words


def test_help_installs_nothing(source, tmp_path):
    """Where the program is built, and something that building takes is gone."""
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "tandem").write_text('#!/bin/bash\necho "help of $*"\n')
    (tmp_path / "build" / "tandem").chmod(0o755)
    programs = {"pkg-config": "exit 1", "apt-get": f"touch {tmp_path}/installed", "id": "echo 0", "meson": BUILDER, "ninja": BUILDER}
    helped = source("--port", "1", "--help", **programs)
    out, words = helped.communicate(timeout=tandem.PATIENCE_S)
    assert helped.returncode == 0 and out == "help of serve --help\n" and words == ""
    assert not (tmp_path / "installed").exists()
    served = source("--port", "1", **programs)
    out, words = served.communicate(timeout=tandem.PATIENCE_S)
    assert out == "help of serve --port 1\n" and (tmp_path / "installed").exists()


def test_a_person_has_time_to_object(tmp_path):
    """On a terminal only: what nobody looks at does not wait."""
    script = 'sleep() { echo "slept $1"; }; wait_for_objection'
    assert setup(script).stdout == ""
    leader, follower = os.openpty()
    told = subprocess.run(["/bin/bash", "-c", f"root=/nowhere; . {tandem.TOP}/tools/setup.sh; {script}"], stdin=follower,
                          stderr=follower, stdout=subprocess.PIPE, text=True)
    assert told.stdout == "slept 5\n" and b"Ctrl-C within 5 seconds" in os.read(leader, 1000)
    os.close(leader)
    os.close(follower)


def test_run_from_elsewhere(tmp_path):
    """Through a symbolic link, from another directory: it builds a tree as it was fetched, and says serve's help. Not
    optimised, which takes a quarter of the time."""
    ignore = shutil.ignore_patterns(".git", "build", "tests", "models", "__pycache__")
    tree = shutil.copytree(tandem.TOP, tmp_path / "tree", symlinks=True, ignore=ignore)
    (tree / "models").symlink_to(tandem.TOP / "models")
    link = tmp_path / "start-tandem"
    link.symlink_to(tree / "run")
    helped = subprocess.run([link, "--help"], cwd=tmp_path, capture_output=True, text=True,
                            env={**os.environ, "CFLAGS": "-O0"})
    assert helped.returncode == 0 and "--port" in helped.stdout, helped.stderr
    assert (tree / "build" / "tandem").is_file()


def check(*arguments, **options):
    return subprocess.run([tandem.TOP / "check", *arguments], capture_output=True, text=True, **options)


def test_check_help_names_parts_and_platforms():
    helped = check("--help")
    assert helped.returncode == 0 and helped.stderr == ""
    for name in ("gcc", "e2e", "clang", "asan", "tsan", "trixie", "noble", "Ubuntu 24.04"):
        assert f"  {name}" in helped.stdout


@pytest.mark.parametrize("arguments, wrong, choices", [
    (["--platform", "potato"], "`potato`", "trixie noble"), (["--platform"], "``", "trixie noble"),
    (["--platform", "trixie noble"], "`trixie noble`", "trixie noble"), (["frobnicate"], "`frobnicate`", "gcc e2e clang"),
    (["--platform", "trixie", "frobnicate"], "`frobnicate`", "gcc e2e clang")])
def test_check_refuses_before_it_does_anything(arguments, wrong, choices):
    refused = check(*arguments)
    assert refused.returncode == 64 and wrong in refused.stderr and choices in refused.stderr and refused.stdout == ""


@pytest.fixture
def cardboard(tmp_path):
    """A source tree with nothing but the scripts, and a machine whose programs are those of this one but for some."""
    for name in ("check", "tools/setup.sh", "tools/platform.sh", "tests/tally.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(tandem.TOP / name, tmp_path / name)
    (tmp_path / "bin").mkdir()

    def run(*arguments, **programs):
        for name, script in programs.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        return subprocess.run([tmp_path / "check", *arguments], capture_output=True, text=True, cwd="/",
                              env={**os.environ, "PATH": path})
    return run


@pytest.mark.parametrize("programs, reason", [
    ({"id": "echo 1000"}, "sudo ./check --platform trixie"),
    ({"id": "echo 0", "setpriv": "echo Operation not permitted >&2; exit 1"}, "Operation not permitted"),
    ({"id": "echo 0", "setpriv": "exit 0", "debootstrap": "exit 1", "wget": "exit 4"}, "no mirror of Debian 13")])
def test_a_platform_that_can_not_be_had_is_skipped(cardboard, programs, reason):
    """With the reason, and not in silence: nothing has run, so that the exit status is 1."""
    skipped = cardboard("--platform", "trixie", "gcc", **programs)
    *_, why, _, count = skipped.stdout.splitlines()
    assert reason in why and count == "0 passed, 0 failed, 1 skipped" and skipped.returncode == 1


MESON = """[ "$1" != test ] || { mkdir -p "$3/meson-logs"; cat >"$3/meson-logs/testlog.json" <<'END'
{"name": "tandem:unit / x", "result": "OK", "returncode": 0, "stdout": "1..1\\nok 1 - a"}
END
}"""


@pytest.mark.parametrize("ninja, lines", [
    ("exit 0", ["6 passed, 0 failed, 0 skipped"]),
    # A build fails; what builds behind the tests is killed.
    ('case "$*" in *clang*) exit 1 ;; esac', ["failed: check: clang (see build/check/results/clang.log)",
                                              "4 passed, 1 failed, 0 skipped"]),
    ('case "$*" in *clang*) kill -KILL $PPID ;; esac', [
        "failed: check: clang left no results (see build/check/results/clang.log)",
        "failed: check: tsan left no results (see build/check/results/tsan.log)", "2 passed, 2 failed, 0 skipped"])])
def test_check_builds_behind_the_tests(cardboard, ninja, lines):
    """Each tree is a test, and so is what its tests leave behind: three trees here."""
    done = cardboard("gcc", "clang", "tsan", meson=MESON, ninja=ninja)
    assert done.stdout.splitlines() == lines, done.stderr
    assert done.returncode == (0 if len(lines) == 1 else 1)


def tally(*places):
    done = subprocess.run(["python3", tandem.TOP / "tests/tally.py", *places], capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


def test_tally_sums_platforms(tmp_path):
    for name, lines in (("here", "ok 1 - a\nok 2 - b"), ("there", "ok 1 - there # SKIP no root"), ("bad", "not ok 1 - c")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tap").write_text(lines + "\n")
    places = {name: f"{name}={tmp_path / name}" for name in ("here", "there", "bad", "lost")}
    status, lines = tally(places["here"], places["there"])
    assert status == 0 and lines == ["skipped, 1: no root", "    there: check: there", "2 passed, 0 failed, 1 skipped"]
    status, lines = tally(places["here"], places["bad"])
    assert status == 1 and lines == ["failed: bad: check: c", "2 passed, 1 failed, 0 skipped"]
    status, lines = tally(places["here"], places["lost"])
    assert status == 1 and lines == ["failed: lost: left no results", "2 passed, 1 failed, 0 skipped"]


def test_tally_names_what_was_skipped_once(tmp_path):
    """Runs of the same tests together, and of a suite the tests that were skipped in the same variants."""
    lines = ["1..6", "ok 1 - plain"]
    for number, name in enumerate(("ties dot", "ties group", "shapes dot", "shapes group", "same dot"), 2):
        lines += ["# skipped: no such device", f"ok {number} - {name} # SKIP"]
    for run in ("clang", "gcc"):
        row = {"name": "tandem:kernels+more / opencl", "result": "OK", "returncode": 0, "duration": 1.5, "stdout": "\n".join(lines)}
        (tmp_path / f"{run}.json").write_text(json.dumps(row))
    (tmp_path / "e2e.xml").write_text(
        '<testsuite><testcase classname="tests.test_x" name="a" time="2.25"/>'
        '<testcase classname="tests.test_x" name="b[1]" time="0"><skipped message="no such device"/></testcase></testsuite>')
    status, lines = tally(tmp_path)
    assert status == 0 and lines == [
        "skipped, 11: no such device", "    clang, gcc: kernels / opencl: ties, shapes (dot, group)",
        "    clang, gcc: kernels / opencl: same (dot)", "    e2e: test_x.b (1)", "3 passed, 0 failed, 11 skipped"]
    _, lines = tally("--durations", tmp_path)
    assert lines[:2] == ["   2.2 s  e2e: test_x.a", "   1.5 s  gcc: kernels / opencl"]


def is_script(path):
    with open(path, "rb") as file:
        return file.read(30).startswith((b"#!/usr/bin/env bash", b"#!/bin/bash", b"#!/bin/sh"))


SCRIPTS = sorted(str(path.relative_to(tandem.TOP)) for pattern in ("*", "*/*", "tests/*/*")
                 for path in tandem.TOP.glob(pattern)
                 if path.is_file() and "build" not in path.parts[-2:] and (is_script(path) or path.suffix == ".sh"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck(script):
    read = subprocess.run(["shellcheck", "--shell=bash", "--external-sources", "--source-path=SCRIPTDIR", script],
                          cwd=tandem.TOP, capture_output=True, text=True)
    assert read.returncode == 0, read.stdout
