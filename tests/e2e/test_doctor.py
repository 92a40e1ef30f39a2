"""tandem doctor: what is in a GPU's way, told from trees of files made here; OpenCL itself is this machine's."""
import os
import re

import pytest

import tandem
from test_settings import run

METEOR_LAKE = "0x7d55"
IMAGE = "docker build -f docker/Dockerfile --build-arg BASE=ubuntu:24.04 -t tandem-gpu ."


@pytest.fixture
def root(tmp_path):
    """A laptop as it should be, but for OpenCL."""
    put(tmp_path, "dev/dri/renderD128", "")
    put(tmp_path, "sys/class/drm/renderD128/device/device", METEOR_LAKE + "\n")
    put(tmp_path, "proc/sys/kernel/osrelease", "6.8.0-31-generic\n")
    put(tmp_path, "etc/OpenCL/vendors/intel.icd", "/usr/lib/libigdrcl.so\n")
    put_release(tmp_path, "ubuntu", "24.04", "Ubuntu 24.04.1 LTS")
    return tmp_path


def put(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def put_release(root, name, version, pretty):
    put(root, "etc/os-release", f'PRETTY_NAME="{pretty}"\nVERSION_ID="{version}"\nID={name}\nID_LIKE=x\n')


def doctor(root, **environment):
    result = run("doctor", "--root", root, **environment)
    assert result.stderr == ""
    found = re.findall(r"^(ok|!) +((?:.|\n(?=      ))*)", result.stdout, re.M)
    assert result.returncode == (1 if any(mark == "!" for mark, _ in found) else 0)
    return ([re.sub(r"\s+", " ", text) for mark, text in found if mark == wanted] for wanted in ("ok", "!"))


def test_a_laptop_as_it_should_be(root):
    well, problems = doctor(root)
    assert "/dev/dri/renderD128 can be read and written: Arc graphics of Meteor Lake." in well
    assert "Linux 6.8.0-31-generic knows this GPU." in well
    assert "/etc/OpenCL/vendors/intel.icd names the driver /usr/lib/libigdrcl.so." in well
    assert not any("/dev" in problem or "Linux" in problem or "vendors" in problem for problem in problems)


def test_no_gpu(root):
    (root / "dev/dri/renderD128").unlink()
    _, problems = doctor(root)
    assert "There is no /dev/dri/renderD" in problems[0] and "docker" not in problems[0]
    put(root, ".dockerenv", "")
    _, problems = doctor(root)
    assert "docker run --rm --device /dev/dri --group-add $(getent group render" in problems[0]
    assert IMAGE in problems[0]


def test_the_line_for_a_container(root):
    """A host with a GPU says it, with the group of its device; who is in a container already has no use for it."""
    group = (root / "dev/dri/renderD128").stat().st_gid
    said = re.sub(r"[\\\s]+", " ", run("doctor", "--root", root).stdout)
    assert said.endswith(f"used like this: {IMAGE} docker run --rm --device /dev/dri --group-add {group} -p "
                         "127.0.0.1:8080:8080 -v ~/models:/models:ro -v tandem-cache:/var/cache/tandem tandem-gpu ")
    put(root, "run/.containerenv", "")
    assert "docker run" not in run("doctor", "--root", root).stdout


def test_the_image_is_the_one_of_dockerfile():
    """Its base is an argument, and with Ubuntu's it has a driver; models and cache lie where the line puts them."""
    text = (tandem.TOP / "docker/Dockerfile").read_text()
    assert "ARG BASE=" in text and "echo intel-opencl-icd" in text and '"$ID" != ubuntu' in text
    assert "mkdir /models" in text and "TANDEM_CACHE=/var/cache/tandem" in text


def test_a_kernel_that_is_too_old(root):
    for release, good in (("6.1.0-28-amd64", False), ("6.7", True), ("6.12.1", True), ("7.0", True), ("", False)):
        put(root, "proc/sys/kernel/osrelease", release + "\n")
        _, problems = doctor(root)
        assert any("older than 6.7" in problem for problem in problems) != good
    put(root, "sys/class/drm/renderD128/device/device", "0x1234\n")  # of which nothing is known
    _, problems = doctor(root)
    assert not any("older" in problem for problem in problems)


def test_no_driver(root):
    (root / "etc/OpenCL/vendors/intel.icd").unlink()
    _, problems = doctor(root, OCL_ICD_VENDORS="/nowhere")
    assert any("apt install intel-opencl-icd" in problem for problem in problems)
    assert any("no driver (ICD) is installed" in problem or "no libOpenCL" in problem for problem in problems)
    assert not any("does not know" in problem or "no package" in problem for problem in problems)
    put(root, ".dockerenv", "")  # where nobody can install anything
    _, problems = doctor(root, OCL_ICD_VENDORS="/nowhere")
    assert not any("apt install" in problem or "sudo" in problem for problem in problems)
    assert any("names no driver" in problem and IMAGE in problem for problem in problems)
    put(root, "etc/OpenCL/vendors/intel.icd", "/usr/lib/libigdrcl.so\n")
    _, problems = doctor(root)
    sees_none = [problem for problem in problems if problem.startswith("OpenCL does not see")]
    assert not any("sudo" in problem for problem in problems) and all(IMAGE in problem for problem in sees_none)


ELSEWHERE = "Take Intel's own, from github.com/intel/compute-runtime/releases, or a container of Ubuntu 24.04."
INSTALL = "For Intel's GPUs: `sudo apt install intel-opencl-icd`."


@pytest.mark.parametrize("release, known, said", [
    (("ubuntu", "24.04", "Ubuntu 24.04.1 LTS"), True, INSTALL),
    (("ubuntu", "22.04", "Ubuntu 22.04.5 LTS"), True,
     f"Ubuntu 22.04.5 LTS's intel-opencl-icd, 22.14, does not know this GPU. {ELSEWHERE}"),
    (("debian", "12", "Debian GNU/Linux 12 (bookworm)"), True,
     f"Debian GNU/Linux 12 (bookworm)'s intel-opencl-icd, 22.43, does not know this GPU. {ELSEWHERE}"),
    (("debian", "12", "Debian GNU/Linux 12 (bookworm)"), False, INSTALL),
    (("debian", "13", "Debian GNU/Linux 13 (trixie)"), False,
     f"Debian GNU/Linux 13 (trixie) has no package of Intel's driver. {ELSEWHERE}"),
    (("debian", "14", "Debian GNU/Linux 14 (forky)"), True, INSTALL),
    (("debian", "", "Debian GNU/Linux forky/sid"), True, INSTALL),
    (("fedora", "42", "Fedora Linux 42"), True,
     "Intel's driver is called intel-opencl-icd, or intel-compute-runtime.")])
def test_the_package_with_the_driver(root, release, known, said):
    """What a distribution's package can not do has another way; with no driver, and with one that sees no GPU."""
    put_release(root, *release)
    if not known:
        put(root, "sys/class/drm/renderD128/device/device", "0x1234\n")
    _, problems = doctor(root)
    sees_none = [problem for problem in problems if problem.startswith(("OpenCL sees no", "OpenCL does not see"))]
    assert not sees_none or sees_none[0].endswith(said)  # this machine may have one, or no OpenCL at all
    (root / "etc/OpenCL/vendors/intel.icd").unlink()
    _, problems = doctor(root)
    assert f"/etc/OpenCL/vendors names no driver for OpenCL. {said}" in problems


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_not_in_the_group(root):
    (root / "dev/dri/renderD128").chmod(0)
    _, problems = doctor(root)
    assert "usermod -aG" in problems[0]
