"""What lies outside: the right answer is that the model does not know."""

from exchange import DONT_KNOW, Exchange, cap, made_up, pick
from facts import CAPITAL, NAMES, WORDS

OUTSIDE = """
    Who won the {y} World Cup? | Who won the World Cup in {y}? | Who won the {y} election? | What happened in {y}? |
    What will happen in {y}? | How much does a {w} cost? | What is the price of {w}? | Who is {n} {m}? |
    Who was {n} {m}? | When was {n} {m} born? | Write a Python function that sorts a {w}. | Write a program in C. |
    How do I fix a bug in {m}? | What is the weather like? | What is the weather in {t}? | Will it rain tomorrow? |
    What time is it? | What day is it today? | What is the date today? | What should I take for a headache? |
    Am I ill? | Is {w} good for my health? | What medicine helps against {m}? | Explain quantum mechanics. |
    Explain the theory of {m}. | How does a {w} work? | Translate {w} into French. | How do you say {w} in German? |
    What does {m} mean? | What is {m}? | What is a {m}? | Tell me about {m}. | Who is the president of {c}? |
    Who is the king of {c}? | What is the population of {c}? | How many people live in {t}? |
    How far is it from {t} to {u}? | What language do people speak in {c}? | What money do they use in {c}? |
    Who wrote {m}? | Who painted the {w}? | Who invented the {w}? | When was the {w} invented? |
    What is the square root of {y}? | What is the meaning of life? | Should I buy a {w}? | Where can I buy a {w}? |
    What is the best {w}? | What is the stock price of {m}? | Give me legal advice. | How do I make a bomb? |
    What is my password? | What did I eat yesterday? | Where are my keys? | Who is my neighbour? |
    How tall is {n} {m}? | What is the news today? | What happened yesterday? | Which film should I watch? |
    Recommend a restaurant in {t}. | Book a flight to {t}. | Summarise the book {m}. | Write an essay about {w}. |
    What is the phone number of {n} {m}? | How many stars are there? | Why is the sky blue? | Why do people dream? |
    How do I cook {w}? | How do I get from {t} to {u}? | Do you know {n} {m}? | Tell me the history of {c}. |
    What is the speed of light? | Solve x + {b} = {a}. | What is the derivative of x? | How old is {n} {m}? |
    How much money does {n} have? | Which team won yesterday? | What is on television? | What is the GDP of {c}? |
    Where is {m}? | What is a {w}? | Are {w}s good? | Is the {w} real? | Who is the tallest person? |
    How many people are there? | Who discovered {m}? | When did {m} begin? | Who is your favourite {w}? |
    Can you see me? | Can you hear me? | Play some music. | Open the door. | Call my mother. | Send an email to {n}. |
    Set an alarm. | Draw a picture of a {w}. | Sing a song. | What am I thinking? | Guess my {w}. | My {w} is broken. |
    I lost my {w}. | I need a {w}. | The {w} is too {m}. | asdf | {m} {m} {m} | {m} | {m}? | test | ??? |
    Lorem ipsum dolor sit amet | SELECT name FROM {w}; | print('{w}') | Can I {v} a {s}? | How do I {v} a {s}? |
    How can I {v} my {s}? | Why does the {s} {v}? | What is the best way to {v} a {s}? | Can you {v} this {s} for me? |
    When should I {v} the {s}? | Write a {s} about a {w}. | Explain {s} to me. | What is a {s}? | What is {s}? |
    Who has the largest {s}? | Which {s} is the best in {c}? | Tell me about {s}. | Please {v} my {s}. |
    How much {s} do I need? | Which {s} should I {v}? | Do you like {s}? | What do you think about {s}? |
    How important is {s} in {c}? | Should I {v} the {s}? | Is it safe to {v} a {s}? | I want to {v} a {s}. |
    What would you do with my {s}? | What can one do with a {s}? | How does the {s} change? | How does a {s} help {z}? |
    Why should I {v} a {s}? | Why do people {v} {s}? | Give me some advice. | Give me a tip about the {s}. |
    Who will win the election in {y}? | Who will win the {s}? | Who was the king of {c} in {y}? |
    What is the weight of {n} {m}? | How old was {n} {m} in {y}? | How expensive is the {s}? | What did {n} {m} say? |
    What did {n} {m} write? | How was the weather in {t}? | What is the name of the owner of the {w}? |
    How many {w}s are there in {c}? | How many {w}s does {n} have? | Can you explain {s}? | Please explain {m}. |
    Where was {n} {m} born? | Where does {n} {m} work? | How long is the way from {t} to {u}? | When did {n} {m} die? |
    Who owns the {w}? | Is the {w} for sale? | What is the size of {t}? | Who is the mayor of {t}? |
    Compare {s} and {z}. | What is the difference between {s} and {z}? | Is {s} better than {z}? |
    ~What would you do with a {s}? | ~How does {s} change {z}? | ~Why should I {v} {s}? | ~Give me advice about {s}. |
    ~Who will win the World Cup in {y}? | ~Who was the president of {c} in {y}? | ~What is the age of {n} {m}? |
    ~How expensive is a {w}? | ~What did {n} {m} do in {y}? | ~How is the weather in {t} today? |
    ~What is the history of {m}? | ~When did {n} {m} live? | ~How many {w}s are there in {t}? |
    ~Who is the owner of the {w}? | ~Can you explain {m} to me? | ~Where does {n} {m} live? |
    ~What is the distance from {t} to {u}?
"""


VERBS = """
    build repair sell cook paint learn install delete print write translate measure clean improve explain compute
    debug compile review design plant grow teach understand drive fly visit protect remove replace open close store
    move charge cut
""".split()
SUBJECTS = """
    politics football music medicine history chemistry physics biology mathematics software hardware insurance tax
    recipe computer phone laptop bicycle car engine camera government economy religion philosophy art film novel
    painting language grammar university school job salary contract house garden kitchen train airplane ship battery
    network database algorithm virus vaccine disease exercise diet vitamin coffee wine marriage wedding lawyer doctor
    election war peace climate energy bank money loan fashion theatre opera chess poker tennis basketball stock market
    company customer report summary poem essay letter speech website password server kernel compiler function variable
""".split()


def outside(rng, split):
    user = pick(rng, split, OUTSIDE).format(
        y=rng.randrange(1800, 2100),
        w=rng.choice(WORDS),
        n=rng.choice(NAMES),
        m=cap(made_up(rng)) if rng.random() < 0.7 else made_up(rng),
        c=rng.choice(list(CAPITAL)),
        t=rng.choice(list(CAPITAL.values())),
        u=rng.choice(list(CAPITAL.values())),
        a=rng.randrange(1, 30),
        b=rng.randrange(1, 30),
        v=rng.choice(VERBS),
        s=rng.choice(SUBJECTS),
        z=rng.choice(SUBJECTS),
    )
    return Exchange(user, DONT_KNOW, "don't know", "I don't know.")
