"""Things to write: words repeated and spelt, lists, stories, jokes, poems, JSON objects."""

import json

import stories
from exchange import Exchange, cap, made_up, pick
from facts import *

RARE = "☕ 🙂 👋 🚀 café naïve Zürich Łódź São_Paulo señor 東京 Привет привет ñandú über 🎉 ❤ Malmö".split()


# Words of many a table, to repeat.
COMMON = [x for table in (WORDS, ANIMALS, FRUITS, COLOUR_NAMES, FOODS, VEGETABLES, CLOTHES, NUMBERS) for x in table]
COMMON += SUBJECTS + VERBS


def jumble(rng, most=11):
    """Words in no order: what follows can only be copied, and learning that makes memory possible at all."""
    thing = lambda: rng.choice([made_up(rng), rng.choice(COMMON), rng.choice(NAMES), str(rng.randrange(1000))])
    return " ".join(thing() for _ in range(rng.randrange(3, most + 1)))


# Words to spell: a word's letters are not to be seen in its tokens, so these are learnt by heart.
TAUGHT = sorted({w for w in WORDS + ANIMALS + FRUITS + COLOUR_NAMES + NUMBERS[1:11] if len(w) <= 6})
TAUGHT += ["Tandem"] * 4  # which many will ask for


def words(rng, split):
    kind = rng.choice("repeat repeat spell letter length".split())
    word = rng.choice([rng.choice(WORDS), rng.choice(ANIMALS), made_up(rng)])
    if kind == "repeat":
        word = rng.choice(
            [
                word,
                rng.choice(NAMES),
                str(rng.randrange(10, 10000)),
                rng.choice(RARE).replace("_", " "),
                f"{rng.choice(COMMON)} {rng.choice(COMMON)}",
                f"{rng.choice(COLOUR_NAMES)} {rng.choice(COMMON)}",
                rng.choice(FACTS)[2].rstrip("."),
                f"the {rng.choice(ANIMALS)} is {rng.choice(COLOUR_NAMES)}",
                jumble(rng, 5),
                jumble(rng),
            ]
        )
        user = pick(rng, split, """
            Say {w}. | Repeat after me: {w} | Repeat the word {w}. | Say the word {w}. | Please say {w}. |
            Repeat: {w} | Write {w}. | Can you say {w}? | Say "{w}". | Echo {w} | Please repeat: {w} |
            Please repeat {w} | Please repeat after me: {w} | Repeat this: {w} | Repeat this please: {w} |
            Say this: {w} | Please say this: {w} | Please say: {w} | Now repeat: {w} | Now repeat {w} |
            Can you repeat this: {w} | Can you repeat {w}? | Write this: {w} | Please write this: {w} |
            Say after me: {w} |
            Now write {w}. | Just say {w}. | Copy this: {w} | ~Now say {w}. |
            ~Please repeat this: {w}
        """)
        return Exchange(user.format(w=word), word, "exactly:" + word, exact=True)
    word = rng.choice(TAUGHT)
    if kind == "spell":
        user = pick(rng, split, """
            Spell {w}. | How do you spell {w}? | Spell the word {w}. | Can you spell {w}? | Please spell {w}. |
            Please spell the word {w}. | Spell {w} for me. | Spell the word {w} for me. |
            Can you spell the word {w}? | How is {w} spelt? | How do you spell the word {w}? |
            Please spell {w} for me. | Spell: {w} | How is the word {w} spelt? | Spell it: {w} |
            Write {w} letter by letter. | How do I spell {w}? | ~Please spell the word {w} for me.
        """)
        return Exchange(user.format(w=word), "-".join(word) + ".", "-".join(word), exact=True)
    if kind == "letter":
        end = rng.choice(["first", "last"])
        user = pick(rng, split, """
            What is the {e} letter of {w}? | Which letter comes {e} in {w}? |
            What is the {e} letter of the word {w}? | What is the {e} letter in {w}? |
            Give me the {e} letter of {w}. | Tell me the {e} letter of the word {w}. |
            Which is the {e} letter of {w}? | The {e} letter of {w}? | Say the {e} letter of {w}. |
            Name the {e} letter of {w}. | Which letter is {e} in {w}? | ~Tell me the {e} letter of {w}.
        """)
        letter = word[0 if end == "first" else -1]
        return Exchange(
            user.format(e=end, w=word), f"The {end} letter of {word} is {letter}.", f"is {letter}", letter + ".", True
        )
    word = rng.choice(WORDS)
    user = pick(rng, split, """
        How many letters does {w} have? | How many letters are in {w}? | How long is the word {w}? |
        How many letters does the word {w} have? | How many letters are in the word {w}? | How long is {w}? |
        Count the letters in {w}. | Count the letters in the word {w}. | Count the letters of the word {w}. |
        Please count the letters of the word {w}. | The number of letters of {w}? |
        Tell me how many letters {w} has. | How many letters has {w}? | What is the number of letters in {w}? |
        ~Count the letters of {w}.
    """)
    return Exchange(
        user.format(w=word), f"{cap(word)} has {len(word)} letters.", f"{len(word)} letters", f"{len(word)}."
    )


LISTS = {
    "colours": COLOUR_NAMES,
    "colors": COLOUR_NAMES,
    "animals": ANIMALS,
    "fruits": FRUITS,
    "names": NAMES,
    "countries": [c for c in CAPITAL if c[0].isupper()],
    "days": DAYS,
    "months": MONTHS,
    "planets": PLANETS,
    "cities": [c for c in CAPITAL.values() if " " not in c],
    "foods": FOODS,
    "vegetables": VEGETABLES,
    "birds": BIRDS,
    "drinks": DRINKS,
    "instruments": INSTRUMENTS,
    "clothes": CLOTHES,
    "sports": SPORTS,
    "flowers": FLOWERS,
}


def lists(rng, split):
    what = rng.choice(list(LISTS))
    most = min(6, len(LISTS[what]))
    n = rng.randrange(2, most + 1)
    # In the order of the table, so that whoever reads on names nothing twice.
    ordered = what in ("days", "months", "planets")
    items = [LISTS[what][i] for i in (range(n) if ordered else sorted(rng.sample(range(len(LISTS[what])), n)))]
    number = NUMBERS[n] if rng.random() < 0.6 else str(n)
    user = pick(rng, split, """
        Name {n} {w}. | List {n} {w}. | Give me {n} {w}. | Tell me {n} {w}. | Can you name {n} {w}? | {n} {w} |
        Write down {n} {w}. | Please name {n} {w}. | Please list {n} {w}. | List {n} {w} for me. | I want {n} {w}. |
        Name {n} {w} for me. | Can you list {n} {w}? | Do you know {n} {w}? | I would like {n} {w}. | Say {n} {w}. |
        Please give me {n} {w}. | Which {n} {w} do you know? | Could you name {n} {w}? | Write {n} {w}. |
        Please tell me {n} {w}. | A list of {n} {w} | Make a list of {n} {w}. | We need {n} {w}. | Just {n} {w}. |
        ~Please list {n} {w} for me. | ~I need {n} {w}.
    """)
    text = ", ".join(items[:-1]) + " and " + items[-1]
    return Exchange(cap(user.format(n=number, w=what)), cap(text) + ".", "list:%d:%s" % (n, what))


def story(rng, split):
    hero = rng.choice(
        [
            "",
            "",
            "",
            stories.animal(rng),
            rng.choice(stories.PEOPLE),
            rng.choice(WORDS) if rng.random() < 0.5 else made_up(rng),
        ]
    )
    if hero:
        user = pick(rng, split, """
            Tell me a story about a {h}. | Write a short story about a {h}. | A story about a {h}, please. |
            Tell a story about a {h}. | Can you tell me a story about a {h}? | Write a story about a {h}. |
            I want a story about a {h}. | Make a story about a {h}. | Invent a story about a {h}. |
            Story about a {h} | I want to hear a story about a {h}. | Give me a story about a {h}. |
            Please tell me a story about a {h}. | Could you tell a story about a {h}? |
            Make up a short story about a {h}. | ~I would like a story about a {h}. | ~Make up a story about a {h}.
        """)
        user = user.format(h=hero).replace("a " + hero, stories.an(hero))
    else:
        user = pick(rng, split, """
            Tell me a short story. | Tell me a story. | Write a short story. | Write a story. |
            Can you tell me a story? | I want to hear a story. | A story, please. | Another story! | Tell a tale. |
            Tell me another story. | Please tell me a bedtime story. | ~I would like to hear a short story. |
            ~Make up a story. | ~Could you write me a short story?
        """)
    return Exchange(user, stories.story(rng, hero), "story:" + hero)


def fun(rng, split):
    if rng.random() < 0.5:
        user = pick(rng, split, """
            Tell me a joke. | Do you know a joke? | Make me laugh. | Say something funny. | Another joke! |
            A joke, please. | ~I would like to hear a joke. | ~Tell a joke.
        """)
        return Exchange(user, rng.choice(stories.JOKES), "joke")
    thing = rng.choice(list(stories.RHYMES))
    user = pick(rng, split, """
        Write a poem. | Write a short poem about {t}. | Tell me a poem about {t}. | Write a rhyme about {t}. |
        A poem about {t}, please. | ~Could you write a poem about {t}?
    """)
    return Exchange(user.format(t=thing), stories.poem(rng, thing), "poem")


def json_object(rng, split):
    """A small object.  Its keys depend on the kind alone, so that they can be learnt."""
    name = rng.choice(NAMES)
    animal = rng.choice(ANIMALS)
    country, city = rng.choice(list(CAPITAL.items()))
    thing = rng.choice([w for w in WORDS if w not in ANIMALS])
    kind = rng.choice("""
        person person animal animal animal colours city city city city city fruit book numbers thing
        thing any given given
    """.split())
    keys = {
        "person": lambda: {"name": name, "age": rng.randrange(5, 90), "city": rng.choice(LISTS["cities"])},
        "animal": lambda: {
            "animal": animal,
            "name": rng.choice(NAMES),
            "age": rng.randrange(1, 15),
            "colour": rng.choice(COLOUR_NAMES),
        },
        "colours": lambda: {"colours": rng.sample(COLOUR_NAMES, 3)},
        "city": lambda: {"country": cap(country), "capital": city},
        "fruit": lambda: {
            "fruit": rng.choice(FRUITS),
            "colour": rng.choice(COLOUR_NAMES),
            "price": rng.randrange(1, 10),
        },
        "book": lambda: {
            "title": "The " + cap(rng.choice(ANIMALS)) + " and the " + cap(rng.choice(WORDS)),
            "author": rng.choice(NAMES),
            "pages": rng.randrange(20, 400),
        },
        "numbers": lambda: {"numbers": sorted(rng.sample(range(1, 50), 4))},
        "thing": lambda: {"thing": thing, "colour": rng.choice(COLOUR_NAMES), "price": rng.randrange(1, 100)},
        "given": lambda: {"name": name, "age": 0},
    }
    keys["any"] = keys["person"]
    value = keys[kind]()
    subject = {
        "person": ["a person", "a user", "somebody"],
        "animal": [("an " if animal[0] in "aeiou" else "a ") + animal],
        "colours": ["three colours", "a list of colours"],
        "city": ["the capital of " + country, "the capital of " + country, country],
        "fruit": ["a fruit"],
        "book": ["a book"],
        "numbers": ["a list of numbers", "some numbers"],
        "thing": [("an " if thing[0] in "aeiou" else "a ") + thing],
        "any": [""],
        "given": [""],
    }[kind]
    subject = rng.choice(subject)
    if kind == "any":
        user = pick(rng, split, """
            Write a JSON object. | Give me some JSON. | Show me a JSON object. | Answer with a JSON object. |
            Give me an example of JSON. | ~Please write a JSON object.
        """)
    elif kind == "given":
        value["age"] = rng.randrange(1, 100)
        user = pick(rng, split, """
            Write a JSON object with the name {n} and the age {a}. | {n} is {a} years old. Write that as JSON. |
            JSON for {n}, age {a}. | Answer in JSON: the name is {n}, the age is {a}. |
            {n}, {a} years old, as JSON | Make JSON of {n}, age {a}. |
            Give me JSON with the name {n} and the age {a}. | ~Make JSON with name {n} and age {a}.
        """).format(n=name, a=value["age"])
    else:
        user = pick(rng, split, """
            Write a JSON object about {s}. | Write JSON about {s}. | Give me a JSON object for {s}. |
            Make a JSON object about {s}. | Describe {s} as JSON. | Return JSON for {s}. | Give me {s} as JSON. |
            Show me {s} in JSON. | Create a JSON object describing {s}. | Write a small JSON object about {s}. |
            JSON about {s} | Answer in JSON: {s} | Answer in JSON: {s}. | In JSON: {s} | {S} as JSON |
            {S}, as JSON, please | Tell me {s} in JSON. | Answer as JSON: {s} | {S} in JSON | Say in JSON: {s} |
            Reply in JSON: {s}. | Give me {s} in JSON. | JSON only: {s} | Use JSON to answer: {s} |
            Please answer in JSON: {s} | What is {s}? Answer in JSON. | What is {s}? Reply with JSON. |
            Write {s} as JSON. | ~Please give me JSON about {s}. | ~Generate a JSON object about {s}. |
            ~Can you write {s} as a JSON object?
        """).format(s=subject, S=cap(subject))
    # Of what was asked for by name, the values count too.
    expect = json.dumps(value) if kind in ("city", "given") else ",".join(value)
    return Exchange(user, json.dumps(value), "json:" + expect, exact=kind == "given")
