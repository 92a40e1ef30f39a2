"""Things the user tells, to be remembered until they are asked for."""

from exchange import Exchange, cap, made_up, pick
from facts import CAPITAL, COLOUR_NAMES, FOODS, NAMES, WORDS
from stories import an


RELATIVES = [(r, "she") for r in "sister mother wife daughter aunt grandmother friend teacher neighbour boss".split()]
RELATIVES += [(r, "he") for r in "brother father husband son uncle grandfather friend teacher neighbour boss".split()]


def memory(rng, split):
    """(telling, asking, asking what was never told): the second exchange needs the first."""
    kind = rng.choice("name name name colour town pet age code word food person person place".split())
    name = rng.choice(NAMES) if rng.random() < 0.5 else cap(made_up(rng))
    value = {
        "name": name,
        "colour": rng.choice(COLOUR_NAMES),
        "town": rng.choice([rng.choice(list(CAPITAL.values())), cap(made_up(rng))]),
        "pet": name,
        "age": str(rng.randrange(5, 90)),
        "code": str(rng.randrange(100, 10000)),
        "word": rng.choice([rng.choice(WORDS), made_up(rng)]),
        "food": rng.choice(FOODS),
        "person": name,
        "place": rng.choice([rng.choice(list(CAPITAL.values())), cap(made_up(rng))]),
    }[kind]
    animal = rng.choice(["dog", "cat", "horse", "rabbit"])
    relative, pronoun = rng.choice(RELATIVES)
    her = {"she": "her", "he": "his"}[pronoun]
    tell, told, ask, answer = {
        "name": (
            """
                My name is {v}. | I am {v}. | Hi, I am {v}. | Hello, my name is {v}. | I'm {v} | Call me {v}. |
                You can call me {v}. | Hi! My name is {v}. | ~Hello, I am called {v}. | ~People call me {v}.
            """,
            "Nice to meet you, {v}!",
            """
                What is my name? | What's my name? | Who am I? | Do you know my name? | Do you remember my name? |
                Tell me my name. | What was my name? | What am I called? | ~Can you tell me my name? |
                ~Please say my name.
            """,
            "Your name is {v}.",
        ),
        "colour": (
            """
                My favourite colour is {v}. | My favorite color is {v}. | I like {v} best of all colours. |
                ~The colour I like most is {v}.
            """,
            "{V} is a nice colour!",
            """
                What is my favourite colour? | Which colour do I like? | What is my favorite color? |
                Do you remember my favourite colour? | ~Tell me my favourite colour.
            """,
            "Your favourite colour is {v}.",
        ),
        "town": (
            "I live in {v}. | I come from {v}. | My home is {v}. | ~I am from {v}.",
            "{V} sounds like a nice place!",
            """
                Where do I live? | Where do I come from? | Which town do I live in? | Do you remember where I live? |
                ~Tell me where I live.
            """,
            "You live in {v}.",
        ),
        "pet": (
            """
                I have a {k} called {v}. | My {k} is called {v}. | My {k}'s name is {v}. |
                ~The name of my {k} is {v}.
            """,
            "{V} is a good name for a {k}!",
            """
                What is my {k} called? | What is the name of my {k}? | Do you remember the name of my {k}? |
                ~Tell me the name of my {k}.
            """,
            "Your {k} is called {v}.",
        ),
        "age": (
            """
                I am {v} years old. | My age is {v}. | I turned {v} this year. | ~I'm {v} years old now.
            """,
            "{v} is a good age!",
            """
                How old am I? | What is my age? | Do you remember how old I am? | ~Tell me my age.
            """,
            "You are {v} years old.",
        ),
        "code": (
            """
                The code is {v}. | Remember the number {v}. | My secret number is {v}. |
                Please remember this code: {v} | ~Keep this number in mind: {v}
            """,
            "I will remember {v}.",
            """
                What is the code? | What was the number? | Which number did I tell you? | What is my secret number? |
                What was the code? | ~Tell me the number.
            """,
            "The number is {v}.",
        ),
        "word": (
            """
                The secret word is {v}. | Remember the word {v}. | The password is {v}. |
                Please remember this word: {v} | ~Keep this word in mind: {v}
            """,
            "I will remember {v}.",
            """
                What is the secret word? | What was the word? | Which word did I tell you? | What is the password? |
                ~Tell me the secret word.
            """,
            "The word is {v}.",
        ),
        "food": (
            """
                My favourite food is {v}. | I love {v}. | I like to eat {v}. | ~The food I like most is {v}.
            """,
            "{V} is tasty!",
            """
                What is my favourite food? | What do I like to eat? | Which food do I love? |
                ~Tell me my favourite food.
            """,
            "Your favourite food is {v}.",
        ),
        "person": (
            """
                My {r} is called {v}. | My {r}'s name is {v}. | I have {a} called {v}. | My {r} is {v}. |
                {v} is my {r}. | The name of my {r} is {v}. | I have {a}. {P} is called {v}. |
                ~I have {a} whose name is {v}. | ~{v} is the name of my {r}.
            """,
            "{V} is a nice name!",
            """
                What is my {r} called? | What is the name of my {r}? | What is my {r}'s name? | What is {h} name? |
                Who is my {r}? | Do you remember the name of my {r}? | Do you know {h} name? | What is {p} called? |
                Tell me {h} name. | What was {h} name? | What was my {r}'s name? | ~Tell me the name of my {r}. |
                ~Do you remember {h} name?
            """,
            "Your {r} is called {v}.",
        ),
        "place": (
            """
                My {r} lives in {v}. | My {r} comes from {v}. | I have {a} in {v}. | I have {a} who lives in {v}. |
                ~My {r} is from {v}. | ~The home of my {r} is {v}.
            """,
            "{V} sounds like a nice place!",
            """
                Where does my {r} live? | Where does {p} live? | Where is my {r}? |
                Do you remember where my {r} lives? | In which town does my {r} live? | Where is {h} home? |
                ~Tell me where my {r} lives. |
                ~Tell me where {p} lives.
            """,
            "Your {r} lives in {v}.",
        ),
    }[kind]
    fill = lambda text: text.format(
        v=value, V=cap(value), k=animal, r=relative, a=an(relative), p=pronoun, P=cap(pronoun), h=her
    )
    first = Exchange(fill(pick(rng, split, tell)), fill(told), value, exact=True)
    if value in NAMES and rng.random() < 0.15:
        first.user = first.user.lower()
    second = Exchange(fill(pick(rng, split, ask)), fill(answer), value, cap(value) + ".")
    untold = Exchange(
        second.user,
        {"name": "I don't know your name yet. What is your name?"}.get(kind, "I don't know. You have not told me yet."),
        "don't know",
        "I don't know.",
    )
    return first, second, untold
