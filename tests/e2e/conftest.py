import os
import signal

import openai
import pytest

import tandem

os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(tandem.TOP / "build" / "hypothesis"))  # not the top
os.environ.setdefault("POCL_CACHE_DIR", str(tandem.TOP / "build" / "pocl"))  # not the home of who runs this


def pytest_sessionstart():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # run with & it is ignored, and so by all that is started
    if not tandem.BINARY.exists():
        pytest.exit(f"{tandem.BINARY} is not there; ./run builds it", 1)


def pytest_collection_modifyitems(items):
    """xdist runs only one of those that bear the same name."""
    names = [item.nodeid for item in items]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise pytest.UsageError(f"several tests are called {', '.join(twice)}")


@pytest.fixture(scope="session")
def server():
    """One server with default settings for all tests that leave it as they find it."""
    server = tandem.Server()
    yield server
    assert server.process.poll() is None, server.log
    assert server.stop() == 0, server.log


@pytest.fixture
def serve():
    """Starts servers with settings of a test's own, and ends them with it."""
    servers = []

    def start(*arguments, **options):
        servers.append(tandem.Server(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        status = server.stop()
        assert status == 0, server.log


@pytest.fixture
def client(server):
    return client_of(server)


def client_of(server, **options):
    options = {"api_key": "none", "max_retries": 0, "timeout": tandem.PATIENCE_S, **options}
    return openai.OpenAI(base_url=f"{server.url}/v1", **options)
