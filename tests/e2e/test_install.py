"""What meson install puts down works from there: the program finds what came with it, wherever that lies."""
import configparser
import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

import tandem

UNIT = "lib/systemd/system/tandem.service"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The tree of the program under test, installed below a directory that is not its prefix."""
    tree = tandem.BINARY.parent
    if not (tree / "meson-private").is_dir():
        pytest.skip(f"{tree} is no build tree")
    place = tmp_path_factory.mktemp("installed")
    done = subprocess.run(["meson", "install", "-C", tree, "--no-rebuild", "--destdir", place], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    (program,) = place.rglob("bin/tandem")
    return program.parents[1]


def test_serves_the_built_in_model_from_there(installed, tmp_path, monkeypatch):
    """And not the source tree's: another model lies where the installed one was, and answers by its name."""
    moved = shutil.copytree(installed, tmp_path / "moved")
    monkeypatch.setattr(tandem, "BINARY", moved / "bin" / "tandem")
    server = tandem.Server(model=None)
    assert json.loads(server.request("GET", "/v1/models")[2])["data"][0]["id"] == "demo"
    assert "Paris" in server.say("What is the capital of France?", model="demo")
    maps = (tandem.pathlib.Path("/proc") / str(server.process.pid) / "maps").read_text()
    assert str(moved / "share/tandem/models/demo/model.safetensors") in maps
    assert server.stop() == 0


def test_brings_its_settings_and_its_manual(installed):
    (settings,) = installed.parent.rglob("etc/tandem/tandem.yaml") # below the prefix, but for /usr
    assert "server:" in settings.read_text()
    (page,) = installed.rglob("man1/tandem.1")
    assert page.read_text().startswith(".TH TANDEM 1") and "tandem health" in page.read_text()


def unit(installed):
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(installed / UNIT)
    return parser


def test_unit_starts_the_installed_program(installed):
    service = unit(installed)["Service"]
    program, *arguments = service["ExecStart"].split()
    assert program.endswith("/bin/tandem") and str(installed).endswith(program.removesuffix("/bin/tandem"))
    assert arguments == ["serve"]


def test_unit_is_confined(installed, tmp_path):
    """As systemd judges it; where there is no systemd to ask, the unit has at least what it is about."""
    service = unit(installed)["Service"]
    for name, value in {"DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict"}.items():
        assert service[name] == value
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    copy = tmp_path / "tandem.service"
    text = (installed / UNIT).read_text()
    copy.write_text(text.replace(service["ExecStart"], f"{installed}/bin/tandem serve"))
    verified = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    assert verified.returncode == 0 and "tandem.service" not in verified.stderr, verified.stderr
    judged = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=25", copy],
                            capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout


def test_the_gpu_is_for_those_who_ask(installed, tmp_path):
    """A machine without one, or without the group render, starts the service and the container as they are."""
    service = unit(installed)["Service"]
    assert "DeviceAllow" not in service and "SupplementaryGroups" not in service and service["PrivateDevices"] == "yes"
    (drop_in,) = installed.rglob("doc/tandem/gpu.conf")
    assert "DeviceAllow=char-drm rw" in drop_in.read_text()
    plain, gpu = ((tandem.TOP / "docker" / name).read_text() for name in ("compose.yaml", "compose.gpu.yaml"))
    for key in ("devices:", "group_add:", "RENDER_GROUP:", "BASE:"):
        assert key not in plain and key in gpu
    if shutil.which("systemd-analyze"):
        (tmp_path / "tandem.service.d").mkdir()
        shutil.copy(drop_in, tmp_path / "tandem.service.d")
        copy = tmp_path / "tandem.service"
        copy.write_text((installed / UNIT).read_text().replace(service["ExecStart"], f"{installed}/bin/tandem serve"))
        verified = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
        assert verified.returncode == 0 and "gpu.conf" not in verified.stderr, verified.stderr


def test_containers_keep_converted_weights():
    """Their file systems are read-only, so each gets a place for what the image has its cache in; as the service does."""
    (place,) = re.findall(r"^ENV .*TANDEM_CACHE=(\S+)", (tandem.TOP / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert f" {place}\n" in (tandem.TOP / "docker/Dockerfile").read_text().split("ENV ")[0]  # it is made
    assert f"TANDEM_CACHE={place}\n" in (tandem.TOP / "packaging/tandem.service.in").read_text()
    one = yaml.safe_load((tandem.TOP / "docker/compose.yaml").read_text())
    two = yaml.safe_load((tandem.TOP / "deploy/compose.yaml").read_text())
    for file, name in ((one, "tandem"), (two, "one"), (two, "two")):
        assert file["services"][name]["read_only"] and f"cache:{place}" in file["services"][name]["volumes"]
        assert "cache" in file["volumes"]
    (pod,) = [part["spec"]["template"]["spec"] for part in yaml.safe_load_all((tandem.TOP / "deploy/kubernetes.yaml").read_text())
              if part["kind"] == "Deployment"]
    (container,) = pod["containers"]
    assert {"name": "cache", "mountPath": place} in container["volumeMounts"]
    assert {"name": "cache", "emptyDir": {}} in pod["volumes"]


def test_compose_finds_what_it_changes_in_haproxys_settings():
    """Each of its replacements, or the balancer would listen to itself, or ask nobody."""
    deploy = tandem.TOP / "deploy"
    compose = yaml.safe_load((deploy / "compose.yaml").read_text())
    balancer = compose["services"]["balancer"]
    (script,) = re.findall(r"sed '([^']*)' /deploy/haproxy.cfg", balancer["command"][2])
    before = (deploy / "haproxy.cfg").read_text()

    def sed(commands):
        return subprocess.run(["sed", commands, deploy / "haproxy.cfg"], capture_output=True, text=True, check=True).stdout

    for command in script.split("; "):
        assert sed(command) != before, command
    after = sed(script)
    assert "127.0.0.1" not in re.sub(r"#.*", "", after)
    (port,) = [ports.split(":")[-1] for ports in balancer["ports"]]
    assert f"bind *:{port}\n" in after
    for name in balancer["depends_on"]:
        assert re.search(rf"^ *server {name} {name}:8080\b", after, re.MULTILINE) and name in compose["services"]


# ---- tandem health: what containers ask

def health(*arguments, **environment):
    own = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    return subprocess.run([tandem.BINARY, "health", *arguments], capture_output=True, text=True,
                          env={**own, **environment}, timeout=tandem.PATIENCE_S)


def test_health_of_a_server_that_is_ready(server):
    for asked in (health("--port", str(server.port)), health(TANDEM_HOST="0.0.0.0", TANDEM_PORT=str(server.port))):
        assert asked.returncode == 0 and json.loads(asked.stdout)["status"] == "ready" and asked.stderr == ""


def test_health_of_a_server_that_ends(serve):
    server = serve()
    holder = server.held_stream()
    server.process.terminate()
    server.wait_until(lambda: not server.listens())
    asked = health("--port", str(server.port))
    assert asked.returncode == 1 and str(server.port) in asked.stderr and asked.stdout == ""
    holder.close()
    server.wait()


def test_health_reads_what_serve_reads(server, tmp_path):
    """The file, with everything in it that a server may have; then variables, then flags."""
    path = tmp_path / "x.yaml"
    path.write_text(f"model:\n  weights: bf16\nengine:\n  queue: 3\nserver:\n  port: {server.port}\n  log_level: debug\n")
    assert health("--config", path).returncode == 0
    assert health(TANDEM_CONFIG=str(path)).returncode == 0
    assert "port 1:" in health("--config", path, TANDEM_PORT="1").stderr
    assert "port 2:" in health("--config", path, "--port", "2", TANDEM_PORT="1").stderr
    assert health("--config", path, TANDEM_PORT="", TANDEM_HOST="").returncode == 0
    path.write_text("server:\n  prot: 1\n")
    wrong = health("--config", path)
    assert wrong.returncode == 64 and "did you mean `port`?" in wrong.stderr
    assert health("--config", path, "--port", str(server.port)).returncode == 64  # as serve
    path.write_text("server:\n  port: 0\n")
    assert health("--config", path).returncode == 64 and "--port" in health("--config", path).stderr


def test_health_speaks_of_a_client():
    helped = health("--help").stdout
    assert "where the server is" in helped and "picks a free one" not in helped and "to listen on" not in helped


@pytest.mark.parametrize("answer, said", [
    (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 20\r\n\r\n" + b'{"status":"stalled"}', "not ready (503)"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "no Tandem"), (b"", "no Tandem")])
def test_health_of_something_else(answer, said):
    with tandem.socket.create_server(("127.0.0.1", 0)) as listener:
        asking = subprocess.Popen([tandem.BINARY, "health", "--port", str(listener.getsockname()[1])], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        connection, _ = listener.accept()
        assert connection.recv(4096).startswith(b"GET /ready HTTP/1.1\r\n")
        connection.sendall(answer)
        connection.close()
        _, errors = asking.communicate(timeout=tandem.PATIENCE_S)
    assert asking.returncode == 1 and said in errors


def test_health_does_not_wait_for_ever():
    with tandem.socket.create_server(("127.0.0.1", 0)) as listener:
        asked = health("--seconds", "0.2", "--port", str(listener.getsockname()[1]))
    assert asked.returncode == 1 and "in time" in asked.stderr


def test_health_takes_a_host_that_there_is():
    asked = health("--host", "no.such.host.invalid")
    assert asked.returncode == 64 and "no.such.host.invalid" in asked.stderr
    asked = health("--host", "http://localhost:80")
    assert asked.returncode == 64 and "--host localhost --port 80" in asked.stderr
