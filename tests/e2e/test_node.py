"""The official openai package for Node: node/openai.test.mjs runs once, and each of its tests counts as one here."""
import re

import pytest

import node_packages
import tandem

TEXT = (node_packages.SOURCE / "openai.test.mjs").read_text()


@pytest.fixture(scope="module")
def results(server):
    node_packages.demand()
    small = tandem.Server("--max-sequences", "1", "--queue", "1")
    try:
        return node_packages.run_tests("openai.test.mjs", TEXT, TANDEM_URL=server.url, TANDEM_SMALL_URL=small.url,
                                       TANDEM_MODEL=tandem.MODEL.name)
    finally:
        assert small.stop() == 0, small.log


@pytest.mark.parametrize("name", re.findall(r"^test\('(.*?)'", TEXT, re.MULTILINE))
def test_openai(results, name):
    assert name in results and not results[name], results.get(name)
