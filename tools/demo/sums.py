"""Sums, differences, products, counting and comparing."""

from exchange import Exchange, cap, pick
from facts import NAMES, NUMBERS

LESS = ("smaller", "less")


def held_pair(a, b):
    """About one pair in eleven, in either order, never shown in training as a sum or a difference."""
    return (7 * max(a, b) + 3 * min(a, b)) % 11 == 0


def spoken(rng, number, share):
    """A number as people write it: small ones sometimes in words."""
    return NUMBERS[number] if number < len(NUMBERS) and rng.random() < share else str(number)


def arithmetic(rng, split):
    kind = rng.choice("sum sum sum sum difference difference product large".split())
    if kind == "large":
        a, b = rng.randrange(30, 10 ** rng.choice([2, 3, 4])), rng.randrange(30, 10 ** rng.choice([2, 3, 4]))
        user = pick(rng, split, """
            What is {a} {o} {b}? | {a} {o} {b} | Calculate {a} {o} {b}. | ~How much is {a} {o} {b}?
        """).format(a=a, b=b, o=rng.choice("+-*/"))
        return Exchange(user, "I don't know. I can only do sums with small numbers.", "don't know", "I don't know.")
    if kind == "product":
        a, b = rng.randrange(0, 11), rng.randrange(0, 11)
        op, sign, result = rng.choice(["*", "times", "x", "multiplied by"]), "*", a * b
    else:
        while True:
            a, b = rng.randrange(0, 21), rng.randrange(0, 21)
            if split != "held" and rng.random() < 0.2:  # the same digits behind other tens
                a, b = rng.randrange(0, 100), rng.randrange(0, 10)
            if held_pair(a, b) == (split == "held"):
                break
        if kind == "sum":
            op, sign, result = rng.choice(["+", "+", "plus"]), "+", a + b
        else:
            a, b = max(a, b), min(a, b)
            op, sign, result = rng.choice(["-", "-", "minus"]), "-", a - b
    left, right = str(a), str(b)
    if op.isalpha() and rng.random() < 0.3:
        left, right = spoken(rng, a, 1), spoken(rng, b, 1)
    asking = """
        What is {e}? | What is {e}? | What's {e}? | {e} | {e} = | {e}? | How much is {e}? | Calculate {e}. |
        Compute {e}. | Work it out: {e} | Can you tell me what {e} is? | Do you know what {e} is? | And {e}? |
        ~Tell me the result of {e}. | ~Solve {e}. | ~How much would {e} be?
    """
    # The held split measures new numbers in known phrasings where there are new numbers.
    user = pick(rng, "train" if sign != "*" else split, asking)
    tight = op in "+-*" and rng.random() < 0.3
    question = f"{left}{op}{right}" if tight else f"{left} {op} {right}"
    answer = f"{a} {sign} {b} = {result}."
    return Exchange(cap(user.format(e=question)), answer, answer, f"{result}.")


def word_sum(rng, split):
    while True:
        a, b = rng.randrange(1, 21), rng.randrange(1, 21)
        if held_pair(a, b) == (split == "held"):
            break
    name, thing = rng.choice(NAMES), rng.choice(["apples", "books", "coins", "cakes", "stones", "flowers"])
    if rng.random() < 0.5:
        return Exchange(
            f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have?",
            f"{a} + {b} = {a + b}. {name} has {a + b} {thing}.",
            f"{a} + {b} = {a + b}.",
            f"{a + b}.",
        )
    a, b = max(a, b), min(a, b)
    return Exchange(
        f"{name} has {a} {thing} and gives away {b}. How many {thing} are left?",
        f"{a} - {b} = {a - b}. {a - b} {thing} are left.",
        f"{a} - {b} = {a - b}.",
        f"{a - b}.",
    )


def equal(rng, split, a, b):
    b = a if rng.random() < 0.4 else b
    user = pick(rng, split, """
        Is {a} equal to {b}? | Are {a} and {b} equal? | Is {a} the same as {b}? | Are {a} and {b} the same? |
        Are {a} and {b} the same number? | Does {a} equal {b}? | ~Is {a} the same number as {b}?
    """).format(a=a, b=b)
    size = "smaller" if a < b else "larger"
    said = f"Yes, {a} and {b} are equal" if a == b else f"No, {a} is {size} than {b}"
    return Exchange(user, said + ".", said, "Yes." if a == b else "No.")


def larger(rng, split, a, b, word, spelt):
    user = pick(rng, split, """
        Is {a} {w} than {b}? | Is {a} {w} than {b}? | Is the number {a} {w} than {b}? |
        {a} is {w} than {b}, right? | Would you say {a} is {w} than {b}? |
        Tell me whether {a} is {w} than {b}. | Is it true that {a} is {w} than {b}? |
        ~Do you think {a} is {w} than {b}? | ~Can you tell me whether {a} is {w} than {b}?
    """).format(w=word, **spelt)
    if a == b:
        return Exchange(user, f"No, {a} and {b} are equal.", f"No, {a} and {b} are equal", "No.")
    yes = (a < b) == (word in LESS)
    small = "less" if word == "less" else "smaller"
    large = word if yes and word not in LESS else "larger"
    said = f"{'Yes' if yes else 'No'}, {a} is {small if a < b else large} than {b}"
    return Exchange(user, said + ".", said, "Yes." if yes else "No.")


def comparing(rng, split):
    a, b = (rng.randrange(rng.choice([10, 21, 100])) for _ in "ab")
    if rng.random() < 0.12:
        b = a
    word = rng.choice("bigger larger greater smaller less".split())
    spelt = {"a": spoken(rng, a, 0.1), "b": spoken(rng, b, 0.1)}
    kind = rng.random()
    if kind < 0.1:
        return equal(rng, split, a, b)
    if kind < 0.35:
        return larger(rng, split, a, b, word, spelt)
    user = pick(rng, split, """
        Which is {w}, {a} or {b}? | What is {w}: {a} or {b}? | Which number is {w}, {a} or {b}? |
        Which one is {w}, {a} or {b}? | Is {a} or {b} {w}? | What is {w}, {a} or {b}? | {a} or {b}, which is {w}? |
        Tell me what is {w}, {a} or {b}. | Tell me: which is {w}, {a} or {b}? | Say which is {w}, {a} or {b}. |
        Do you know which is {w}, {a} or {b}? | Tell me the {w} one of {a} and {b}. |
        Which is the {w} one, {a} or {b}? | Which is the {w} number, {a} or {b}? | What number is {w}, {a} or {b}? |
        Which of {a} and {b} is {w}? | ~Tell me which is {w}, {a} or {b}.
    """).format(w=word, **spelt)
    if a == b:
        return Exchange(user, f"{a} and {b} are equal.", f"{a} and {b} are equal", "Equal.")
    found = min(a, b) if word in LESS else max(a, b)
    return Exchange(user, f"{found} is {word} than {a + b - found}.", f"{found} is", f"{found}.")


def counting(rng, split):
    if rng.random() < 0.45:
        return comparing(rng, split)
    a, n = rng.choice([(1, rng.randrange(3, 21)), (rng.randrange(0, 20), rng.randrange(3, 11))])
    run = list(range(a, a + n))
    if rng.random() < 0.25:
        run.reverse()
        user = pick(rng, split, """
            Count down from {x} to {y}. | Count backwards from {x} to {y}. | Please count down from {x} to {y}. |
            Please count backwards from {x} to {y}. | Can you count down from {x} to {y}? |
            Count from {x} down to {y}. | Please count from {x} down to {y}. | Backwards from {x} to {y} |
            Can you count backwards from {x} to {y}? | Count from {x} to {y}. | Now count down from {x} to {y}. |
            Count backwards: {x} to {y} | Count in reverse from {x} down to {y}. |
            ~Please count backwards from {x} down to {y}.
        """)
    elif a == 1:
        user = pick(rng, split, """
            Count to {y}. | Count from {x} to {y}. | Please count to {y}. | Can you count to {y}? |
            Please count up to {y}. | Can you count up to {y}? | Now count to {y}. | Count for me to {y}. |
            Count from {x} up to {y}. | Count until {y}. | I want you to count to {y}. | Could you count to {y}? |
            Say the numbers from {x} to {y}. | Say the numbers up to {y}. | Count from {x} to {y} for me. |
            Count: {x} to {y} | Please count for me to {y}. | Will you count to {y}? | Let us count to {y}. |
            Start counting and stop at {y}. | ~Count up to {y}.
        """)
    else:
        user = pick(rng, split, """
            Count from {x} to {y}. | Count up from {x} to {y}. | Please count from {x} to {y}. |
            Can you count from {x} to {y}? | Count from {x} up to {y}. | Please count up from {x} to {y}. |
            Please count from {x} up to {y}. | Now count from {x} to {y}. | Could you count from {x} to {y}? |
            Can you count up from {x} to {y}? | Say the numbers from {x} to {y}. | Count for me from {x} to {y}. |
            Start at {x} and count to {y}. |
            ~Can you count from {x} up to {y}?
        """)
    text = ", ".join(map(str, run))
    share = rng.choice([0, 0, 1])
    user = user.format(x=spoken(rng, run[0], share), y=spoken(rng, run[-1], share))
    return Exchange(user, text + ".", "exactly:" + text)
