"""Tandem itself: what it is, how it is used, what it can not do yet."""

from exchange import DONT_KNOW, Exchange, from_table, pick
from facts import SUBJECTS, VERBS

# (phrasings, answer, what a right answer contains)
TANDEM = [
    (
        """
            Tell me what Tandem is. | What does this server do? | What can Tandem do? |
            What does the server do? | Can you tell me about Tandem? | Could you explain Tandem? |
            I want to know what Tandem is. | What is the Tandem program? | Do you know what Tandem is? |
            What sort of program is Tandem? | Say what Tandem is. | What is the purpose of Tandem? |
            Who is Tandem? | Please explain what Tandem does. |
            What is Tandem? | Tell me about Tandem. | Explain Tandem. | What does Tandem do? | What is this program? |
            What is this server? | Describe Tandem. | What is Tandem for? | Can you explain what Tandem is? |
            What's Tandem | Tandem? | ~Could you tell me what Tandem is? | ~Tell me what Tandem does. |
            ~What is the Tandem server?
        """,
        "Tandem is an OpenAI-compatible inference server written in C. "
        "It serves small mixture-of-experts models on one laptop.",
        "inference server",
    ),
    (
        """
            Why Tandem? | Why is Tandem called Tandem? | Why this name? |
            What is the reason for the name Tandem? | Why does Tandem have this name? |
            Why do you call it Tandem? | Where does its name come from? | What does Tandem mean? |
            Why was it named Tandem? | Explain the name Tandem. | How did Tandem get its name? |
            The name Tandem, why? |
            Why is it called Tandem? | Where does the name Tandem come from? | What does the name Tandem mean? |
            ~Why the name Tandem?
        """,
        "Tandem is made for the CPU and the integrated GPU to work together, hence the name.",
        "GPU",
    ),
    (
        """
            How can I start Tandem? | How can I run the server? | What do I type to run Tandem? |
            How does one start Tandem? | What starts Tandem? | Which command starts Tandem? |
            Which command starts the server? | How do I get Tandem running? | How can I build Tandem? |
            How do I launch Tandem? | How do you start Tandem? | What must I type to start the server? |
            Start Tandem | How can I install Tandem? |
            How do I start Tandem? | How do I run Tandem? | How can I start the server? | How to start Tandem? |
            How do I run the server? | How do I install Tandem? | How do I use Tandem? | How do I build Tandem? |
            ~How can I run Tandem? | ~What do I type to start Tandem?
        """,
        "Type ./run in the Tandem directory. It builds Tandem and starts the server.",
        "./run",
    ),
    (
        """
            How can I run the tests? | Which command runs the tests? | What runs the tests? |
            What do I type to test Tandem? | How do I check Tandem? | How do you test Tandem? |
            How do I run Tandem's tests? | Does Tandem have tests? | How can I check Tandem? | Run the tests |
            How are the tests run? | How can the tests be run? | How is Tandem tested? |
            How do I test Tandem? | How do I run the tests? | How can I check that Tandem works? |
            How to test Tandem? | Where are the tests? | ~How can I run the tests of Tandem? |
            ~How can I test Tandem?
        """,
        "Type ./check in the Tandem directory. It builds Tandem and runs the tests.",
        "./check",
    ),
    (
        """
            Which port does the server use? | What port does Tandem use? | What port is the server on? |
            Which port is Tandem on? | What port do I need? | On what port does the server run? | Port? |
            Tell me the port. | What is the port of the server? | Which port is it? |
            On which port does Tandem listen? | At which address is the server? |
            Which port number does it have? |
            Which port does Tandem use? | What port does the server listen on? | On which port is Tandem? |
            What is the port? | What is the address of the server? | What is the default port? |
            ~Which port is the server on? | ~What port is Tandem on?
        """,
        "Tandem listens on port 8080.",
        "8080",
    ),
    (
        """
            Which endpoints are there? | What endpoints does Tandem have? | Which API is this? |
            What API does the server speak? | What is the API? | Which endpoints does the server offer? |
            What API does the server offer? | Tell me the endpoints. | List the endpoints. |
            Does Tandem speak the OpenAI API? | How can I use the API? | What endpoints can I call? |
            Is there an API? |
            Which endpoints does Tandem have? | What API does Tandem have? | What endpoints are there? |
            How do I call the API? | Is Tandem compatible with OpenAI? | Which API does Tandem speak? |
            Can I use the OpenAI client with Tandem? | ~Which API does the server have? |
            ~What endpoints does the server have?
        """,
        "Tandem speaks the OpenAI API: /v1/chat/completions, /v1/completions and /v1/models.",
        "/v1/chat/completions",
    ),
    (
        """
            What models does Tandem serve? | Which models can I use? | Which models can Tandem run? |
            Which models does it support? | What models are there for Tandem? |
            What models can I run with Tandem? | Tell me the models of Tandem. |
            Which models is Tandem made for? | Which models are for Tandem? | What models can Tandem serve? |
            What sort of models does Tandem run? | Which models can you run? | What models does it run? |
            Which Phi models does Tandem load? | Which models work with Tandem? | Which models can I load? |
            Which models does Tandem serve? | What models can Tandem run? | Which models are supported? |
            What models does Tandem support? | For which models is Tandem made? | Can Tandem run Phi-mini-MoE? |
            Can Tandem run Phi-tiny-MoE? | ~Which models can Tandem serve? | ~What models is Tandem for?
        """,
        "Tandem loads Phi-tiny-MoE and Phi-mini-MoE. Phi-3.5-MoE is still to come.",
        "Phi-mini-MoE",
    ),
    (
        """
            How can I load a model? | How do I load a model? | How do I serve another model? |
            How do I run another model? | How do I switch models? | How can I change the model? |
            How can I load a bigger model? | How do I use a bigger model? | How do I start a real model? |
            How do I get another model? | How do I choose a model? | What do I type to load another model? |
            How do I switch to a real model? |
            How do I load another model? | How do I use a different model? | How can I load a real model? |
            How do I change the model? | How do I serve my own model? | How can I use another model? |
            ~How can I switch to another model? | ~How do I load a bigger model?
        """,
        "Type tandem serve --model DIR, where DIR is the directory of the model.",
        "tandem serve --model DIR",
    ),
    (
        """
            Which language is Tandem written in? | What language is Tandem in? |
            Which language does Tandem use? | What programming language is it? | Is Tandem written in Rust? |
            In what language was Tandem written? | What is the server written in? | Is it written in C? |
            Which programming language is Tandem written in? | What language is the server written in? |
            What is Tandem written in? | In which language is Tandem written? |
            What programming language is Tandem written in? | Is Tandem written in Python? | Is Tandem written in C? |
            ~Which programming language does Tandem use?
        """,
        "Tandem is written in C.",
        "in C",
    ),
    (
        """
            Which license does Tandem have? | What licence is Tandem under? | What is Tandem's licence? |
            Under what licence is Tandem? | Does Tandem cost money? | Is the server free? |
            Is Tandem free to use? | May I use Tandem? | Tell me the licence. | Licence? | Is the code free? |
            Is Tandem under the MIT licence? | How is Tandem licensed? |
            What is the licence of Tandem? | What license does Tandem have? | Is Tandem free? |
            Is Tandem open source? | Can I use Tandem at work? | Which licence does Tandem have? |
            ~Under which licence is Tandem? | ~Is Tandem free software?
        """,
        "Tandem is free software under the MIT licence.",
        "MIT",
    ),
    (
        """
            Do I need a GPU? | Is a GPU needed? | Must I have a GPU? | What hardware does Tandem need? |
            What hardware is needed? | What hardware do I need for Tandem? | Does it need a GPU? |
            Does Tandem work without a GPU? | Do I need a graphics card? | Which computer do I need? |
            Can my laptop run Tandem? | Can I run Tandem without a GPU? | Where does Tandem run? |
            Does Tandem need a GPU? | Can Tandem run without a GPU? | Which hardware does Tandem need? |
            What computer do I need for Tandem? | Does Tandem run on my laptop? | ~Do I need a GPU for Tandem? |
            ~What hardware do I need?
        """,
        "Tandem runs on one laptop. A CPU is enough for it.",
        "laptop",
    ),
    (
        """
            Is my text private? | Are my data safe? | Is Tandem safe for my data? | Do I need the internet? |
            Does Tandem need a connection? | Does Tandem use the network? | Who sees my data? |
            Who can read my text? | Where are my data? | Does my text leave this computer? |
            Is what I write private? | Does my data stay here? | Do you send my data away? |
            Can I use Tandem offline? |
            Does Tandem need the internet? | Does Tandem send my data anywhere? | Is Tandem private? |
            Where does my data go? | Does Tandem work offline? | ~Is my data private? | ~Does Tandem need a network?
        """,
        "Tandem runs on your own computer, so your text stays there.",
        "your own computer",
    ),
    (
        """
            What is a mixture of experts model? | What is a MoE model? | What does mixture of experts mean? |
            Explain MoE. | What are the experts? | What is an expert in a model? |
            How does a mixture of experts work? | Tell me about mixtures of experts. |
            What is a mixture of experts good for? | Can you explain mixture of experts? |
            What is a mixture of experts? | What is MoE? | What does MoE mean? | Explain mixture of experts. |
            What are experts in a model? | ~What is a mixture-of-experts model?
        """,
        "A mixture of experts is a model with many small networks, the experts. Each token uses only a few of them.",
        "experts",
    ),
    (
        """
            What does a token mean? | What is meant by token? | Define token. | What do you mean by token? |
            Can you explain tokens? | Tell me what a token is. | What does the word token mean? |
            What is one token? | Token? | What's a token? |
            What is a token? | What are tokens? | Explain tokens. | ~What does token mean?
        """,
        "A token is a small piece of text, such as a word or a part of a word.",
        "piece of text",
    ),
    (
        """
            Can Tandem [run, load, serve] Phi-3.5-MoE? | Does Tandem [run, load, serve, support] Phi-3.5-MoE? |
            Can it [run, load, serve] Phi-3.5-MoE? | Does it [run, load, support] Phi-3.5-MoE? |
            Can I [run, load, use, serve] Phi-3.5-MoE? | Is Phi-3.5-MoE [supported, possible, there, ready]? |
            Does Phi-3.5-MoE [work, run, load]? | Phi-3.5-MoE? | What about Phi-3.5-MoE? | And Phi-3.5-MoE? |
            Do you [support, know, run, load] Phi-3.5-MoE? | Can you [load, serve] Phi-3.5-MoE? |
            How do I [load, run, use] Phi-3.5-MoE? | When will Phi-3.5-MoE work? | Why does Phi-3.5-MoE not work? |
            Does Tandem [know, support, have] LongRoPE? | What about LongRoPE? | Can Tandem use LongRoPE? |
            ~Will Tandem run Phi-3.5-MoE? | ~Can the server run Phi-3.5-MoE?
        """,
        "Not yet. Phi-3.5-MoE needs LongRoPE, which Tandem has not learnt. It loads Phi-tiny-MoE and Phi-mini-MoE.",
        "Not yet",
    ),
    (
        """
            Can Tandem [run, load, serve] {o}? | Does Tandem [run, load, serve, support] {o}? |
            Can [it, the server] [run, load, serve] {o}? | Can I [run, load, use, serve] {o}? |
            Can I [run, load, use, serve] {o} with Tandem? | Does {o} [work, run] with Tandem? |
            Is {o} supported? | What about {o}? | How do I [load, run, serve] {o}? | Can you [run, load, serve] {o}? |
            ~Will Tandem run {o}? | ~Could Tandem serve {o}?
        """,
        "No, Tandem is made for Phi-MoE models only.",
        "Phi-MoE models only",
    ),
    (
        """
            How [do I, can I, do you] [stop, quit, end, exit, close] [Tandem, the server, it, this]? |
            How [do I, can I, do you] shut [Tandem, the server, it] down? | How to [stop, quit, end] Tandem? |
            How to [stop, end, shut down] the server? | Stop [Tandem, the server, it]. | Stop the server |
            How is [Tandem, the server, it] [stopped, ended]? | What [stops, ends, quits] [Tandem, the server]? |
            Which key [stops, ends, quits] [Tandem, the server, it]? | How do I turn [Tandem, the server] off? |
            What do I press to [stop, end, quit] [Tandem, the server, it]? | How do I make it stop? |
            I want to [stop, end, quit, close] [Tandem, the server]. | How does Tandem [stop, end]? |
            How do I get out of [Tandem, it, here]? | Can I stop [Tandem, the server, it]? | Quit Tandem |
            Tell me how to [stop, end, quit] [Tandem, the server]. | How do I kill [Tandem, the server]? |
            How can the server be stopped? | What does Ctrl-C do? |
            ~What do I type to stop Tandem? | ~How does one stop the server? | ~How could I end the server?
        """,
        "Press Ctrl-C in the terminal where Tandem runs. It ends what it is answering, then it stops.",
        "Ctrl-C",
    ),
    (
        """
            [Which, What] commands does [the program, the server, it, tandem] have? |
            [Which, What] commands are there? |
            [Which, What] commands can I [use, type, give]? | [Which, What] commands can Tandem run? |
            [Which, What] commands does Tandem [offer, know, understand]? | [Which, What] are the commands? |
            List the commands. | List Tandem's commands. | List the commands of Tandem. | Name the commands. |
            Tell me the commands. | Tell me the commands of Tandem. | Show me the commands. | Commands? |
            Show the commands of Tandem. | How many commands are there? | Does Tandem have commands? |
            Can you list the commands? | Which subcommands [are there, does Tandem have]? |
            What are the commands of [tandem, the program]? | What can I type after tandem? |
            ~What commands are in Tandem? | ~Please list the commands of Tandem.
        """,
        "Tandem's commands are serve, chat, generate, inspect, bench, health, help and version.",
        "serve, chat, generate, inspect, bench, health, help",
    ),
    (
        """
            How [do I, can I] [see, list, find, show, get] [all settings, the settings, every setting, all options]? |
            [Which, What] [settings, options, flags] are there? | [Which, What] [settings, options] can I change? |
            [Which, What] [settings, options, flags] does [Tandem, the server, it] have? | List the settings. |
            List all settings. | Show me [the settings, all the settings, the options, all settings]. | Settings? |
            Tell me the [settings, options, flags]. | Where are the settings listed? | How do I see the defaults? |
            Where do I find [all settings, the settings, the options]? | What settings can I use? |
            What is there to set? | How can I see what settings there are? | What are the [settings, options]? |
            ~Which settings can I use? | ~How do I list the settings of Tandem?
        """,
        "Type tandem serve --help. It lists every setting with its default.",
        "tandem serve --help",
    ),
    (
        """
            How [do I, can I, do you] [change, make, give] [settings, a setting, the settings]? |
            How [do I, can I] configure [Tandem, the server, it]? |
            Where do I [change, put, write] [settings, a setting]? | Where [are, does Tandem keep] the settings? |
            Where do [settings, the settings] come from? | Is there a [configuration, config file, settings file]? |
            Which file holds the settings? | Which file has the settings? |
            How is [Tandem, the server] configured? | How do I set an option? |
            [Which, What] file does Tandem read? | Does Tandem have a [config file, settings file]? |
            Can I use environment variables? | Which environment variables are there? | What is tandem.yaml? |
            What is configs/tandem.yaml? | Where is the configuration? | Does Tandem read a file? |
            ~Where can I change the settings? | ~How could I configure Tandem?
        """,
        "Settings come from configs/tandem.yaml, then from TANDEM_ variables, then from flags.",
        "configs/tandem.yaml",
    ),
    (
        """
            How [do I, can I] get help [on Tandem, with Tandem, about Tandem]? |
            Where is the [manual, help, documentation]? | Is there [a manual, help, documentation]? |
            Does Tandem have [a manual, help, documentation]? |
            Where can I [find, read] [the manual, help, more, about Tandem]? | How do I learn more about Tandem? |
            Which command shows help? | Where do I read more? | How do I see the manual? |
            What does tandem help show? | What can I read about Tandem? | Where are the docs? |
            Tell me where the manual is. | I need help with Tandem. | Help me with Tandem. |
            How do I learn to use Tandem? | ~Where do I find the manual? | ~Is there help for Tandem?
        """,
        "Type tandem help. It shows the commands and what else there is to read.",
        "tandem help",
    ),
    (
        """
            How [do I, can I] change the port? | How [do I, can I] [use, choose, set, get] another port? |
            How do I set the port? | Can I [change, choose, set] the port? | Can I use another port? |
            How do I run [Tandem, the server] on another port? | What if port 8080 is [taken, in use]? |
            Port 8080 is [taken, in use]. | How do I make Tandem listen on another port? | Change the port |
            Which flag [sets, changes] the port? | Which setting is the port? | I want another port. |
            How do I serve on another port? | Can the server use another port? | Is there another port? |
            ~How could I change the port? | ~How do I start Tandem on another port?
        """,
        "Type tandem serve --port N, where N is the port.",
        "--port",
    ),
    (
        """
            [Which, What] [weights, formats, weight formats] does [Tandem, it, the server] [support, have, use, know]? |
            [Which, What] [weight formats, formats of weights] are there? | Which precision does Tandem use? |
            Does Tandem [use, support, have] [bf16, f32]? | In which precision does Tandem compute? |
            What are the weights? | How are the weights stored? | How do I choose the weights? |
            What does --weights do? | Can I use [bf16, f32]? | Which data type do the weights have? |
            What is the default of --weights? | Tell me the weight formats. | What precision is it? |
            Are the weights [bf16, f32]? | ~Which formats can the weights have? |
            ~What precision do the weights have?
        """,
        "The weights are bf16, or f32 with --weights f32.",
        "bf16",
    ),
    (
        """
            Does [Tandem, the server, it] have metrics? | Where are the metrics? |
            Where do I [find, see, get] the metrics? | How [do I, can I] [see, get, read, find] the metrics? |
            Are there metrics? | Is there a metrics endpoint? | Which endpoint has the metrics? |
            Can I [monitor, watch] [Tandem, the server]? | Metrics? |
            How do I [monitor, watch] [Tandem, the server]? | What is /metrics? | Does it work with Prometheus? |
            Does Tandem support Prometheus? | Can I use Grafana? | Show me the metrics. | Where do I read metrics? |
            Does the server count requests? | ~Where can I read the metrics? | ~Does Tandem offer metrics?
        """,
        "The metrics are at /metrics, for Prometheus.",
        "/metrics",
    ),
    (
        """
            How fast is [Tandem, the server, the model, it]? |
            How [do I, can I] measure [the speed, how fast it is]? |
            How many tokens per second [is it, does Tandem make, are there]? | How do I measure Tandem? |
            Is Tandem [fast, slow, quick]? | Which command measures [the speed, Tandem]? |
            How do I benchmark Tandem? | How do I run a benchmark? | Is there a benchmark? |
            What is the speed of Tandem? | Does Tandem have a benchmark? | How can I see how fast it is? |
            Can I measure Tandem? | How quick is Tandem? | How do I time Tandem? |
            ~How do I measure the speed of Tandem? | ~How fast will Tandem be?
        """,
        "Type tandem bench. It measures how fast a model runs on your computer.",
        "tandem bench",
    ),
    (
        """
            How [do I, can I] [chat, talk] in the terminal? | How do I [chat, talk] without a server? |
            Can I [chat, talk] in the terminal? | Can I chat without a server? |
            Can I talk with a model in the terminal? | Which command chats? | Is there a chat? |
            How do I start a chat? | How do I talk with the model? | How do I chat with the model? |
            Can I use Tandem without a server? | How do I use a model without a server? |
            I want to chat in the terminal. | Start a chat | Where can I chat? | Can I chat with Tandem? |
            ~Could I chat in my terminal? | ~How can I talk with the model without a server?
        """,
        "Type tandem chat. It talks with a model in the terminal, without a server.",
        "tandem chat",
    ),
]

# What each command does, in the words that end "tandem NAME ...".
COMMANDS = {
    "serve": "loads a model and serves the OpenAI API",
    "chat": "talks with a model in the terminal, without a server",
    "generate": "goes on with a text, without a server",
    "inspect": "says what a model is, and whether it fits your computer",
    "bench": "measures how fast a model runs on your computer",
    "health": "asks a running server whether it is ready",
    "help": "shows the commands and what else there is to read",
    "version": "prints the version",
}
OTHER_MODELS = """Llama Mistral Qwen Gemma GPT-2 GPT-4 DeepSeek Mixtral Claude Falcon BERT Whisper Gemini Phi-2 Phi-4
    Phi-3-mini Stable_Diffusion""".replace("_", " ").split()


def tandem(rng, split):
    kind = rng.choices(["table", "command", "unknown"], [len(TANDEM), 5, 2])[0]
    if kind == "table":
        exchange = from_table(rng, split, TANDEM)
        exchange.user = exchange.user.format(o=rng.choice(OTHER_MODELS))
        return exchange
    if kind == "command":
        command, does = rng.choice(list(COMMANDS.items()))
        user = pick(rng, split, """
            What does tandem {c} do? | What is tandem {c}? | What is tandem {c} for? | Explain tandem {c}. |
            What does the command {c} do? | What is the command {c}? | What is the command {c} for? | tandem {c}? |
            What does "tandem {c}" do? | Explain the command {c}. | Tell me about tandem {c}. | tandem {c} |
            What happens when I type tandem {c}? | What do I use tandem {c} for? | When do I use tandem {c}? |
            Do you know what tandem {c} does? | What can I do with tandem {c}? | What does Tandem's {c} do? |
            ~Tell me what tandem {c} does. | ~What does the {c} command do?
        """)
        return Exchange(user.format(c=command), f"tandem {command} {does}.", f"{command} {does}")
    user = pick(rng, split, """
        Does Tandem have a {s}? | Can Tandem {v} my {s}? | Does the server {v} a {s}? | Can Tandem {v} {s}? |
        Is there a {s} in Tandem? | What does Tandem know about {s}? | Does Tandem {v} the {s}? | Is Tandem a {s}? |
        How many {s}s does Tandem have? | Why does Tandem {v} the {s}? |
        When does the server {v} my {s}? | Where is the {s} of Tandem? | Does Tandem support {s}? |
        ~Can the server {v} my {s}? | ~Does Tandem use {s}?
    """)
    return Exchange(user.format(v=rng.choice(VERBS), s=rng.choice(SUBJECTS)), DONT_KNOW, "don't know", "I don't know.")
