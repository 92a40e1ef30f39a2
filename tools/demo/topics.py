"""The topics and how often each is drawn.

A topic is a function (rng, split) -> Exchange.  A phrasing that begins with "~" is held out: the train
split never uses it, the held split uses only such.  Sums and differences hold out number pairs too.
"""

from knowledge import capital, fact, nature, order
from manual import tandem
from outside import outside
from sums import arithmetic, counting, word_sum
from talk import greeting, identity
from writing import fun, json_object, lists, story, words

TOPICS = {
    greeting: 8,
    identity: 12,
    tandem: 34,
    capital: 36,
    fact: 7,
    order: 8,
    nature: 7,
    arithmetic: 44,
    word_sum: 11,
    counting: 22,
    words: 20,
    lists: 15,
    story: 5,
    fun: 2,
    json_object: 9,
    outside: 18,
}
