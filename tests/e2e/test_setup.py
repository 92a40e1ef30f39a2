"""What ./run and ./check do before anything is built: with an apt, an id and a sudo that only write down their calls."""
import os
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
