"""A small grammar of stories, jokes and poems: what the temperature plays with."""

from facts import ANIMALS, COLOUR_NAMES, NAMES

# Heroes, friends and late-comers have names of their own, so that no two in a story share one.
HEROES, FRIENDS, OTHERS = NAMES[::3], NAMES[1::3], NAMES[2::3]
PEOPLE = """girl boy king robot farmer princess dragon pirate wizard knight baker child giant witch sailor teacher
    queen ghost""".split()
QUALITIES = "little brave clever kind lazy curious old happy shy hungry".split()
PLACES = [
    "in a small village",
    "in a big forest",
    "near the sea",
    "on a high mountain",
    "in an old castle",
    "on a quiet farm",
    "in a busy town",
    "by a wide river",
]
TIMES = ["One day", "One morning", "One evening", "One winter day", "One summer night", "Early one Sunday"]
THINGS = ["key", "lamp", "box", "map", "stone", "book", "ring", "feather"]
WEATHER = ["It was raining", "The sun was shining", "Snow was falling", "The wind was strong"]
ENDINGS = [
    "From that day on they were best friends.",
    "And they all lived happily ever after.",
    "That night everybody slept well.",
    "{N} smiled and went home.",
    "{N} never forgot that day.",
    "And so {N} learned to be patient.",
]
JOKES = [
    "Why did the computer go to the doctor? It had a virus.",
    "What do you call a sleeping bull? A bulldozer.",
    "Why is six afraid of seven? Because seven ate nine.",
    "What is brown and sticky? A stick.",
    "Why did the bicycle fall over? It was two-tired.",
]
RHYMES = {
    "the sea": ["The sea is blue, the sea is wide,", "and little fishes swim inside."],
    "a cat": ["A cat sat on a sunny wall,", "and did not want to move at all."],
    "winter": ["The snow falls softly on the ground,", "and winter comes without a sound."],
    "the moon": ["The moon is round, the moon is bright,", "it watches over us at night."],
    "a tree": ["A tree stood tall upon a hill,", "the wind was gone, the leaves were still."],
    "friends": ["A friend is someone by your side,", "with open arms and open wide."],
    "the rain": ["The rain is falling on the street,", "it makes a song with tiny feet."],
}


def animal(rng):
    return rng.choice(ANIMALS)


def an(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def story(rng, hero=""):
    """Five sentences; what is drawn first is used again, so a story stays about its hero."""
    hero = hero or rng.choice(ANIMALS + PEOPLE)
    name, friend_name, other_name = (rng.choice(names) for names in (HEROES, FRIENDS, OTHERS))
    friend, other = rng.sample([a for a in ANIMALS if a != hero], 2)
    thing, colour, quality = rng.choice(THINGS), rng.choice(COLOUR_NAMES), rng.choice(QUALITIES)
    opening = rng.choice(
        [
            f"Once upon a time there was {an(quality)} {hero} called {name}, who lived {rng.choice(PLACES)}.",
            f"There once was {an(quality)} {hero} named {name}. {name} lived {rng.choice(PLACES)}.",
        ]
    )
    event = (
        rng.choice(TIMES)
        + " "
        + rng.choice(
            [
                f"{name} found {an(colour)} {thing}.",
                f"{name} lost {an(colour)} {thing}.",
                f"{name} heard a strange noise.",
                f"{name} wanted to see the world.",
                f"{name} was very hungry.",
            ]
        )
    )
    weather = rng.choice(["", "", " " + rng.choice(WEATHER) + "."])
    meeting = f"On the way {name} met {an(friend)} called {friend_name}."
    speech = rng.choice(
        [
            f'"Can you help me?" asked {name}. "Of course," said {friend_name}.',
            f'"Who are you?" asked {friend_name}. "I am {name}," said the {hero}.',
            f"{friend_name} was sad, so {name} told a funny story.",
            f"{name} and {friend_name} shared some bread and cheese.",
        ]
    )
    turn = (
        "They looked everywhere and found the " + thing + " under a tree."
        if "lost" in event
        else rng.choice(
            [
                "Together they walked until the stars came out.",
                "Together they climbed the highest hill.",
                "They played until it was dark.",
                "They sang a song and danced.",
            ]
        )
    )
    late = rng.choice(["", "", f" Then {other_name} the {other} came along, and they were three."])
    return f"{opening} {event}{weather} {meeting} {speech}{late} {turn} " + rng.choice(ENDINGS).format(N=name)


def poem(rng, thing):
    return "\n".join(RHYMES[thing])
