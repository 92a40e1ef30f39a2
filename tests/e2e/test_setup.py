"""What ./run and ./check do before anything is built: with an apt, an id and a sudo that only write down their calls."""
import os
import shutil
import subprocess

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
        script = f'root={tmp_path}; . {tandem.TOP}/tools/setup.sh; install_missing {NEED}'
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


def test_run_from_elsewhere(tmp_path):
    """Through a symbolic link, from another directory: it builds what is not built yet, and says serve's help."""
    link = tmp_path / "start-tandem"
    link.symlink_to(tandem.TOP / "run")
    helped = subprocess.run([link, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert helped.returncode == 0 and "--port" in helped.stdout, helped.stderr


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
    *_, why, count = skipped.stdout.splitlines()
    assert reason in why and count == "0 passed, 0 failed, 1 skipped" and skipped.returncode == 1


def tally(*places):
    done = subprocess.run(["python3", tandem.TOP / "tests/tally.py", *places], capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


def test_tally_sums_platforms(tmp_path):
    for name, lines in (("here", "ok 1 - a\nok 2 - b"), ("there", "ok 1 - there # SKIP no root"), ("bad", "not ok 1 - c")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tap").write_text(lines + "\n")
    places = {name: f"{name}={tmp_path / name}" for name in ("here", "there", "bad", "lost")}
    status, lines = tally(places["here"], places["there"])
    assert status == 0 and lines == ["skipped, no root: there: check: there", "2 passed, 0 failed, 1 skipped"]
    status, lines = tally(places["here"], places["bad"])
    assert status == 1 and lines == ["failed: bad: check: c", "2 passed, 1 failed, 0 skipped"]
    status, lines = tally(places["here"], places["lost"])
    assert status == 1 and lines == ["failed: lost: left no results", "2 passed, 1 failed, 0 skipped"]


SCRIPTS = sorted(str(path.relative_to(tandem.TOP)) for path in [
    *(tandem.TOP / name for name in ("check", "run", ".ci/run", "docker/try")), *tandem.TOP.glob("tools/*.sh")] if path.exists())


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck(script):
    read = subprocess.run(["shellcheck", "--shell=bash", "--external-sources", "--source-path=SCRIPTDIR", script],
                          cwd=tandem.TOP, capture_output=True, text=True)
    assert read.returncode == 0, read.stdout
