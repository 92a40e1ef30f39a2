"""The topics and how often each is drawn.

A topic is a function (rng, split) -> Exchange.  A phrasing that begins with "~" is held out: the train
split never uses it, the held split uses only such.  Sums and differences hold out number pairs too.
"""

from knowledge import capital, fact, nature, order
from outside import outside
from sums import arithmetic, counting, word_sum
from talk import greeting, identity, tandem
from writing import fun, json_object, lists, story, words

TOPICS = {
    greeting: 9,
    identity: 7,
    tandem: 10,
    capital: 22,
    fact: 10,
    order: 6,
    nature: 9,
    arithmetic: 26,
    word_sum: 5,
    counting: 6,
    words: 14,
    lists: 5,
    story: 4,
    fun: 2,
    json_object: 7,
    outside: 10,
}
