"""What the built-in model is taught and asked: tools/demo/ measures it honestly only if these hold."""
import random
import sys

import pytest

import tandem

sys.path.append(str(tandem.TOP / "tools" / "demo"))
import corpus  # noqa: E402
import eval as measure  # noqa: E402
import probes  # noqa: E402
from topics import TOPICS  # noqa: E402


def drawn(seed, split, count):
    source = corpus.conversations(seed, split)
    return [next(source) for _ in range(count)]


@pytest.mark.parametrize("split", ["train", "held"])
@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.__name__)
def test_answers_count_as_right(topic, split):
    rng = random.Random(1)
    for exchange in (topic(rng, split) for _ in range(500)):
        assert measure.right(exchange.answer, exchange.expect), exchange


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.__name__)
def test_held_out_questions_are_held_out(topic):
    rng = random.Random(2)
    taught = {topic(rng, "train").user for _ in range(4000)}
    assert not taught & {topic(rng, "held").user for _ in range(1000)}


def test_probes_are_held_out():
    said = (m["content"] for c in drawn(3, "train", 20000) for m in c["messages"] if m["role"] == "user")
    assert not [text for text in said if probes.is_probe(text)]


def test_probe_answers():
    """That right() tells a right answer from one that runs on, or names two figures the same."""
    assert measure.right("1, 2, 3.", "exactly:1, 2, 3") and not measure.right("1, 2, 3, 4.", "exactly:1, 2, 3")
    one, two = "Otto met a hedgehog called Otto.", "A fox called Otto met a hedgehog called Eva."
    assert not measure.right("A fox called Otto. He ran. " + one + " It was late.", "story:fox")
    assert measure.right(two + " They ran. They ate. They slept.", "story:fox")
    assert measure.right('{"capital": "Paris"}', 'json:{"capital": "Paris"}')
    assert not measure.right('{"capital": "Rome"}', 'json:{"capital": "Paris"}')


def test_same_seed_same_text():
    assert drawn(4, "train", 200) == drawn(4, "train", 200) != drawn(5, "train", 200)
