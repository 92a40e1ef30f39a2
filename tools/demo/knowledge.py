"""Capitals, simple facts, what comes next, and a little nature."""

from exchange import Exchange, cap, made_up, pick
from facts import *


def no_country(rng):
    """A name that is no country's, often close to one: to know what one knows is to read names to their end."""
    if rng.random() < 0.25:
        return rng.choice(NO_COUNTRIES)
    if rng.random() < 0.5:
        return cap(made_up(rng)) + rng.choice(["", "ia", "land", "stan", "ania", "anda"])
    while True:
        first, second = rng.sample([c for c in CAPITAL if " " not in c], 2)
        name = first[: rng.randrange(2, 5)] + second[-rng.randrange(3, 6) :].lower()
        if name not in CAPITAL:
            return name


def capital(rng, split):
    country, city = rng.choice(list(CAPITAL.items()))
    continent = CONTINENT[country]
    kind = rng.choice("of of of of of of of country where check continent about fake fake".split())
    if kind == "of":
        user = pick(rng, split, """
            What is the capital of {c}? | What is the capital of {c}? | What is the capital of {c}? |
            What is the capital of {c}? | What is the capital of {c}? | What is the capital of {c}? |
            Which city is the capital of {c}? | Tell me the capital of {c}. | capital of {c} | {c} capital? |
            What is {c}'s capital? | Do you know the capital of {c}? | Name the capital of {c}. |
            What's the capital city of {c}? | I need the capital of {c}. | The capital of {c} is |
            And the capital of {c}? | And of {c}? | And {c}? | Can you tell me the capital of {c}? |
            What about the capital of {c}? | What about {c}? | ~Could you name the capital of {c}? |
            ~Which city is {c}'s capital? | ~What city is the capital of {c}? |
            ~Please give me the capital of {c}.
        """)
        return Exchange(cap(user.format(c=country)), f"The capital of {country} is {city}.", city, city + ".")
    if kind == "country":
        if city == "London":
            country = "the United Kingdom"
        user = pick(rng, split, """
            {t} is the capital of which country? | Which country has the capital {t}? |
            Of which country is {t} the capital? | What country is {t} the capital of? | {t} is the capital of |
            Whose capital is {t}? | ~Which country's capital is {t}? |
            ~Tell me which country {t} is the capital of.
        """)
        return Exchange(user.format(t=city), f"{city} is the capital of {country}.", country, cap(country) + ".")
    if kind == "where":
        if city == "London":
            country = "the United Kingdom"
        user = pick(rng, split, """
            Where is {t}? | Where is the city of {t}? | In which country is {t}? | What country is {t} in? |
            What is {t}? | What do you know about {t}? | ~In what country is {t}? | ~Tell me where {t} is.
        """)
        return Exchange(user.format(t=city), f"{city} is the capital of {country}.", country, "In " + country + ".")
    if kind == "check":
        other = rng.choice([city, rng.choice(list(CAPITAL.values()))])
        user = pick(rng, split, """
            Is {t} the capital of {c}? | Is the capital of {c} {t}? | {t} is the capital of {c}, right? |
            ~Would you say {t} is the capital of {c}?
        """)
        right = "Yes" if other == city else "No"
        return Exchange(
            user.format(t=other, c=country),
            f"{right}, the capital of {country} is {city}.",
            f"{right}, the capital of {country} is {city}",
            right + ".",
        )
    if kind == "continent":
        user = pick(rng, split, """
            Which continent is {c} in? | On which continent is {c}? | What continent is {c} on? | Where is {c}? |
            Where is {c} located? | ~In which continent is {c}? | ~Tell me the continent of {c}.
        """)
        return Exchange(user.format(c=country), f"{cap(country)} is in {continent}.", continent, continent + ".")
    if kind == "about":
        user = pick(rng, split, """
            Tell me about {c}. | What do you know about {c}? | What is {c}? | ~Tell me something about {c}.
        """)
        return Exchange(
            user.format(c=country),
            f"{cap(country)} is in {continent}. Its capital is {city}.",
            f"Its capital is {city}",
        )
    name = no_country(rng)
    user = pick(rng, split, """
        What is the capital of {c}? | What is the capital of {c}? | capital of {c} | Tell me the capital of {c}. |
        {c} capital? | What is {c}'s capital? | Do you know the capital of {c}? | Name the capital of {c}. |
        What's the capital city of {c}? | The capital of {c} is | And the capital of {c}? |
        Which city is the capital of {c}? | Can you tell me the capital of {c}? | What about the capital of {c}? |
        Is {t} the capital of {c}? | ~Could you name the capital of {c}? | ~What city is the capital of {c}?
    """).format(c=name, t=rng.choice(list(CAPITAL.values())))
    return Exchange(user, f"I don't know the capital of {name}.", "don't know", "I don't know.", True)


def fact(rng, split):
    question, core, answer, brief = rng.choice(FACTS)
    frames = """
        Do you know {}? | Tell me {}. | Can you tell me {}? | I want to know {}. | Please tell me {}. | Say {}. |
        ~Could you tell me {}? | ~I would like to know {}. | ~Explain {}.
    """
    if split != "held" and rng.random() < 0.6:
        user = question
    else:
        user = pick(rng, split, frames).format(core)
    return Exchange(cap(user), answer, brief.rstrip("."), brief)


def order(rng, split):
    """Days, months, planets, numbers, letters: what comes after, what comes before."""
    what, items, loops = rng.choice(
        [
            ("day", DAYS, True),
            ("month", MONTHS, True),
            ("planet", PLANETS, False),
            ("number", [str(i) for i in range(0, 31)], False),
            ("letter", list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), False),
        ]
    )
    i = rng.randrange(len(items)) if loops else rng.randrange(1, len(items) - 1)
    step = rng.choice([1, -1])
    side = "after" if step == 1 else "before"
    user = pick(rng, split, """
        What comes {s} {x}? | Which {w} comes {s} {x}? | What is the {w} {s} {x}? | Which {w} is {s} {x}? |
        Name the {w} {s} {x}. | {w} {s} {x}? | ~Tell me the {w} {s} {x}. | ~Which {w} do we have {s} {x}?
    """)
    found = items[(i + step) % len(items)]
    return Exchange(
        cap(user.format(w=what, s=side, x=items[i])), f"{found} comes {side} {items[i]}.", f"{found} comes", found + "."
    )


def nature(rng, split):
    kind = rng.choice("colour sound baby legs opposite opposite days".split())
    if kind == "colour":
        thing, colour = rng.choice(list(COLOURS.items()))
        word = rng.choice(["colour", "color"])
        user = pick(rng, split, """
            What {k} is {t}? | What is the {k} of {t}? | Which {k} does {t} have? | Tell me the {k} of {t}. |
            ~Which {k} is {t}? | ~Do you know the {k} of {t}?
        """)
        return Exchange(user.format(k=word, t=thing), f"{cap(thing)} is {colour}.", colour, cap(colour) + ".")
    if kind == "sound":
        animal, sound = rng.choice(list(SOUNDS.items()))
        user = pick(rng, split, """
            What does a {a} say? | What sound does a {a} make? | What noise does a {a} make? |
            Which sound does a {a} make? | How does a {a} sound? | ~Tell me what a {a} says. |
            ~Which noise does a {a} make?
        """)
        return Exchange(user.format(a=animal), f"A {animal} says {sound}.", sound, cap(sound) + ".")
    if kind == "baby":
        animal, baby = rng.choice(list(BABIES.items()))
        user = pick(rng, split, """
            What is a baby {a} called? | What do you call a baby {a}? | What is the name of a baby {a}? |
            What is a young {a} called? | ~How do you call a young {a}? | ~What is a little {a} called?
        """)
        return Exchange(user.format(a=animal), f"A baby {animal} is called a {baby}.", baby, cap(baby) + ".")
    if kind == "legs":
        animal, legs = rng.choice(list(LEGS.items()))
        an = "an" if animal[0] in "aeiou" else "a"
        user = pick(rng, split, """
            How many legs does {an} {a} have? | How many legs has {an} {a}? | Number of legs of {an} {a}? |
            ~Tell me how many legs {an} {a} has.
        """)
        return Exchange(
            user.format(an=an, a=animal), f"{cap(an)} {animal} has {legs} legs.", f"has {legs} legs", legs + "."
        )
    if kind == "days":
        i = rng.randrange(12)
        user = pick(rng, split, """
            How many days does {m} have? | How many days are in {m}? | How long is {m}? |
            ~Tell me how many days {m} has.
        """)
        return Exchange(
            user.format(m=MONTHS[i]),
            f"{MONTHS[i]} has {MONTH_DAYS[i]} days.",
            f"{MONTH_DAYS[i]} days",
            f"{MONTH_DAYS[i]}.",
        )
    word, other = rng.choice(list(OPPOSITES.items()))
    user = pick(rng, split, """
        What is the opposite of {w}? | What is the opposite of "{w}"? | opposite of {w} |
        Tell me the opposite of {w}. | Which word is the opposite of {w}? | ~Name the opposite of {w}. |
        ~What would be the opposite of {w}?
    """)
    return Exchange(user.format(w=word), f"The opposite of {word} is {other}.", f"is {other}", cap(other) + ".")
