"""tandem chat: on a terminal and through a pipe; what it remembers, how it is stopped, how it ends."""
import json
import os
import pathlib
import re
import signal
import stat
import subprocess
import termios
import time

import pytest

import tandem
from terminal import Terminal
from test_settings import refused, run, told

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."
STORY = "Tell me a short story."
COLOUR = re.compile(r"\033\[[0-9;]*m")
READS, READS_NO_MORE = "\033[?2004h", "\033[?2004l"  # what chat tells a terminal of pastes tells a test where it stands
# What it has said becomes ever more likely: such a story ends with the context only. Slowly.
ENDLESS = ["--frequency-penalty", "-2", "--kernels", "reference"]


class Chat(Terminal):
    """With a home of its own; no colours unless a test wants them."""

    def __init__(self, home, *arguments, **environment):
        super().__init__("chat", "--temperature", "0", *arguments,
                         **{"XDG_STATE_HOME": str(home), "HOME": "/nowhere", "NO_COLOR": "1", **environment})
        self.wait_for_prompt(0)

    def enter(self, text, end="\r"):
        """What it says to this."""
        since = len(self.shown)
        self.type(text + end)
        start = self.wait_for(READS_NO_MORE, since)
        return self.rest(start)

    def rest(self, since):
        """What is shown up to the next prompt."""
        end = self.wait_for_prompt(since)
        return self.shown[since:end].replace("\r\n", "\n").strip("\n")

    def wait_for_prompt(self, since):
        """Where what stands before it ends. The terminal has to be in its hands, too: until then Ctrl-C drops lines."""
        end = self.wait_for(READS, since)
        self.wait_until(lambda: not termios.tcgetattr(self.slave)[3] & termios.ICANON)
        return end - len(READS)

    def leave(self):
        self.type("\x04")
        assert self.wait() == 0, self.shown


@pytest.fixture
def chat(tmp_path):
    chats = []

    def start(*arguments, **environment):
        chats.append(Chat(tmp_path / "state", *arguments, **environment))
        return chats[-1]

    yield start
    for one in chats:
        one.close()


def piped(text, *arguments, code=0):
    """What it says to lines on standard input: answers, and what else there is to be said."""
    text = text if isinstance(text, bytes) else text.encode()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    result = subprocess.run([tandem.BINARY, "chat", "--temperature", "0", *map(str, arguments)], input=text,
                            capture_output=True, timeout=tandem.PATIENCE_S, env={**clean, "HOME": "/nowhere"})
    assert result.returncode == code, result
    return result.stdout.decode(), result.stderr.decode()


def messages_of(path):
    return json.loads(path.read_text())["messages"]


def as_the_server(server, messages, answers, **options):
    """The last messages of the assistant are what the server answers to all that stands before them."""
    places = [i for i, message in enumerate(messages) if message["role"] == "assistant"][-answers:]
    assert len(places) == answers
    for i in places:
        body = {"messages": messages[:i], "temperature": 0, "max_tokens": 200, **options}
        served = server.post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
        assert messages[i]["content"] == served


# ---- Through a pipe

def test_pipe(server, tmp_path):
    path = tmp_path / "saved"
    said, more = piped(f"{FRANCE}\n\n  \nAnd of Italy?\r\n{STORY}\n/save {path}", "--max-tokens", "200")
    messages = messages_of(path)
    assert [message["role"] for message in messages] == ["user", "assistant"] * 3
    assert messages[0]["content"] == FRANCE and messages[1]["content"] == PARIS
    assert messages[2]["content"] == "And of Italy?"
    assert said == "".join(message["content"] + "\n" for message in messages[1::2])
    assert more == f"tandem chat: 6 messages are in {path}\n"
    as_the_server(server, messages, 3)


def test_several_lines_are_one_question(tmp_path):
    path = tmp_path / "saved"
    piped(f'one\\\ntwo\n"""\n/three\n\n"four"\n"""\n /five\n/save {path}\n', "--max-tokens", "1")
    assert [message["content"] for message in messages_of(path)[::2]] == ["one\ntwo", '/three\n\n"four"', " /five"]


def test_system(server, tmp_path):
    path = tmp_path / "saved"
    said, more = piped(f"/system\n/system You are a pirate.\n/system\nHello\n/reset\nHello\n/save {path}\n/system -\n/system\n")
    assert said.startswith("You are a pirate.\n")
    assert "there is no system's message; /system TEXT" in more and more.count("there is no system's message") == 3
    messages = messages_of(path)
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    as_the_server(server, messages, 1)
    again, _ = piped("/system\nHello\n", "--system", "You are a pirate.")
    assert again == f"You are a pirate.\n{messages[2]['content']}\n"


def test_load(server, tmp_path):
    saved, body = tmp_path / "saved", tmp_path / "body"
    body.write_text(json.dumps(tandem.chat(FRANCE, stream=True)))
    for arguments, first in ((["--load", body], ""), ([], f"/load {body}\n")):
        piped(f"{first}And of Italy?\n/save {saved}\n", *arguments)
        messages = messages_of(saved)
        assert [message["content"] for message in messages[:2]] == [FRANCE, "And of Italy?"]
        as_the_server(server, messages, 1)
    served = server.request("POST", "/v1/chat/completions", saved.read_bytes())  # the file as it is: a request's body
    assert served[0] == 200


def test_load_of_what_is_no_conversation(tmp_path):
    path, saved = tmp_path / "damaged", tmp_path / "saved"
    path.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "owl"}]}')
    cause = f"tandem chat: {path}: 'messages[1].role' must be"
    assert cause in refused("chat", "--load", path)
    text = tmp_path / "text"
    text.write_text("notjson")
    assert f"tandem chat: {text}: The file is not valid JSON" in refused("chat", "--load", text)
    _, more = piped(f"{FRANCE}\n/load {path}\n/load {tmp_path}/none\n/save {saved}\n", code=1)
    assert cause in more and f"{tmp_path}/none" in more
    assert messages_of(saved)[0]["content"] == FRANCE  # it is still what it was


@pytest.mark.parametrize("line, complaint", [
    ("/hepl", "there is no /hepl; did you mean /help? /help lists what there is"),
    ("/save", "/save needs a FILE"),
    ("/save /tmp/x", "nothing has been said yet"),
    ("/reset now", "/reset takes nothing behind it"),
    ("/load /", "/"),
    (b"\xff\n", "what was entered is not UTF-8"),
    ("x " * 3000, "this is too long: the last question alone comes to at least"),
])
def test_what_can_not_be_done(line, complaint):
    line = line if isinstance(line, bytes) else line.encode() + b"\n"
    said, more = piped(line + FRANCE.encode() + b"\n", code=1)
    assert said == PARIS + "\n"  # it goes on, with a conversation that is as it was
    assert more.startswith("tandem chat: ") and complaint in more and more.count("\n") == 1


def test_help_and_stats():
    said, _ = piped("/help\n")
    listed = re.findall(r"^  (/\w+)", said, re.M)
    assert listed == ["/help", "/reset", "/system", "/save", "/load", "/stats", "/quit"]
    told_of = told("chat", "--help")
    assert all(f"{name}" in told_of and f"{name}" in told("help", "man") for name in listed)
    last = r"last answer   (\d+) prompt tokens, (\d+) of them known, in .* s \(\d+/s\), (\d+) new ones in .* s \(.*/s\)(?:, \d+ of them guessed)?\n"
    said, _ = piped(f"/stats\n{FRANCE}\n{FRANCE}\n/stats\n/quit\nnever read\n")
    before, after = said.split(PARIS + "\n", 1)
    assert "conversation  0 messages, 0 tokens; the context has 2048" in before and "last answer" not in before
    prompt, known, _ = map(int, re.search(last, after).groups())
    assert 0 < known < prompt  # its beginning is the first question
    assert "conversation  4 messages" in after and "all answers   2, of" in after and "never" not in after
    said, _ = piped(f"/system Be brief.\n/stats\n{FRANCE}\n/stats\n", "--max-tokens", "1", code=0)
    assert "conversation  1 message, " in said and ", 1 new one in " in said and "all answers   1, of 1 token in" in said


def test_old_turns_are_dropped(server, tmp_path):
    """Each question is a sixth of the context: when the seventh has no room, the newest that fill half of it stay."""
    saved = tmp_path / "saved"
    sixth = "word " * 300
    lines = "".join(f"{sixth}{i}\n/stats\n" for i in range(9))
    said, more = piped(f"{lines}/save {saved}\n", "--max-tokens", "5", "--system", "Be brief.")
    dropped = [int(count) for count in re.findall(r"the oldest (\d+) turns? (?:is|are) no longer in it", more)]
    assert dropped and "outgrown the context of 2048 tokens" in more
    messages = messages_of(saved)
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert len(messages) == 1 + 2 * (9 - sum(dropped))
    assert messages[-2]["content"].endswith(" 8") and messages[1]["content"].endswith(f" {sum(dropped)}")
    assert f"no longer in  {sum(dropped)} turn" in said
    assert all(int(tokens) <= 2048 for tokens in re.findall(r"(\d+) tokens; the context has 2048", said))
    as_the_server(server, messages, 1, max_tokens=5)


def test_answer_that_has_no_room():
    said, more = piped(STORY + "\n", *ENDLESS[:2])
    assert more == "tandem chat: the answer breaks off here: the context is full\n" and said.count("\n") == 1
    said, more = piped(STORY + "\n", *ENDLESS[:2], "--max-tokens", "3")
    assert more == "tandem chat: the answer breaks off here: it has as many tokens as --max-tokens allows\n"


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("line", [STORY.encode() + b"\n", b""], ids=["mid-answer", "waiting"])
def test_pipe_is_ended(line, number, code):
    process = subprocess.Popen([tandem.BINARY, "chat", "--temperature", "0", *ENDLESS], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(b"/help\n" + line)
    process.stdin.flush()
    said = b""
    while said.count(b"Ctrl-D leaves.\n") == 0 or (line and not said.split(b"leaves.\n")[1]):
        said += os.read(process.stdout.fileno(), 65536)
    process.send_signal(number)
    _, complaint = process.communicate(timeout=tandem.PATIENCE_S)
    assert process.returncode == code and b"tandem chat:" not in complaint


def test_reader_goes_away():
    process = subprocess.Popen([tandem.BINARY, "chat", "--temperature", "0", *ENDLESS], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    process.stdin.write(STORY.encode() + b"\n")
    process.stdin.flush()
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(tandem.PATIENCE_S) == 0
    process.stdin.close()


def test_wrong_settings(tmp_path):
    assert "0 to 2" in refused("chat", "--temperature", "3")
    assert "--seed is `x`" in refused("chat", "--seed", "x")
    assert "`hello`" in refused("chat", "hello")
    assert run("chat", "--model", tmp_path).returncode == 2


# ---- On a terminal

def test_conversation(chat):
    terminal = chat()
    assert "/help tells what there is, Ctrl-D leaves." in terminal.shown
    assert terminal.enter(FRANCE) == PARIS
    assert terminal.enter("And of Italy?") == "The capital of Italy is Rome."
    assert terminal.enter("") == ""
    assert "there is no /x" in terminal.enter("/x")
    terminal.leave()  # and the exit code is not 1: who sits there has seen what went wrong


def test_quit(chat):
    terminal = chat()
    terminal.type("/quit\r")
    assert terminal.wait() == 0


def test_control_c_stops_an_answer(chat, tmp_path):
    terminal = chat(*ENDLESS)
    terminal.type(STORY + "\r")
    start = terminal.wait_for(READS_NO_MORE)
    terminal.wait_for(" ", start)
    terminal.type("\x03")
    answer = terminal.rest(start)
    assert answer.endswith("stopped") and terminal.process.poll() is None
    terminal.enter(f"/save {tmp_path}/saved")
    question, part = messages_of(tmp_path / "saved")
    assert question["content"] == STORY and part["content"].strip() in answer
    assert "conversation  2 messages" in terminal.enter("/stats")
    terminal.enter("/reset")
    terminal.type(STORY + "\r")  # and once more
    start = terminal.wait_for(READS_NO_MORE, len(terminal.shown))
    terminal.wait_for(" ", start)
    terminal.type("\x03")
    assert "stopped" in terminal.rest(start)
    terminal.leave()
    assert "/quit leaves" not in terminal.shown  # that Ctrl-C was for the answer


def test_control_c_at_the_prompt(chat):
    terminal = chat()
    assert "Ctrl-D or /quit leaves" in terminal.enter("", end="\x03")
    for line in ("What is the capital of It", "two"):
        terminal.type(line)
        terminal.wait_for(line)  # a terminal drops with Ctrl-C what nobody has read yet
        assert "leaves" not in terminal.enter("", end="\x03")
        terminal.enter('"""one')  # the second time within several lines
    terminal.enter("", end="\x03")
    assert terminal.enter(FRANCE) == PARIS
    terminal.leave()


def test_terminated(chat):
    for arguments, text in (([], ""), (ENDLESS, STORY + "\r")):
        terminal = chat(*arguments)
        terminal.type(text)
        if text:
            terminal.wait_for(" ", terminal.wait_for(READS_NO_MORE))
        terminal.process.terminate()
        assert terminal.wait() == 143


def computed_s(process):
    """Processor time that it has had; of one that has ended too, as long as nobody has asked how it ended."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def within_a_step(chat):
    """A chat whose model reads a long prompt in steps that are slow, and what it had computed before."""
    terminal = chat(*ENDLESS[2:], "--threads", "1")
    before = computed_s(terminal.process)
    terminal.type("word " * 1800 + "\r")
    terminal.wait_for(READS_NO_MORE)
    terminal.wait_until(lambda: computed_s(terminal.process) >= before + 0.1)  # more than the tokens cost
    return terminal, before


def interrupt(terminal):
    """Ctrl-C, and that it has arrived: of two that wait for a process it sees one."""
    terminal.type("\x03")
    status = pathlib.Path(f"/proc/{terminal.process.pid}/status")
    since = terminal.wait_for("^C", len(terminal.shown))
    terminal.wait_until(lambda: not int(re.search(r"ShdPnd:\s*(\w+)", status.read_text())[1], 16) & 2)
    return since


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ends_within_a_step(chat, tmp_path, number, code):
    """The second Ctrl-C and the first SIGTERM do not wait for the end of the step, for which the first Ctrl-C does. How
    far it came shows in what was computed, however busy the machine is."""
    terminal, before = within_a_step(chat)
    assert "stopped" in terminal.rest(interrupt(terminal))
    step_s = computed_s(terminal.process) - before
    terminal.leave()
    terminal, before = within_a_step(chat)
    if number == signal.SIGINT:
        interrupt(terminal)
    terminal.process.send_signal(number)
    deadline = time.monotonic() + tandem.PATIENCE_S
    while not os.waitid(os.P_PID, terminal.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        assert time.monotonic() < deadline, terminal.shown
        time.sleep(0.01)
    assert computed_s(terminal.process) - before < step_s / 2
    assert termios.tcgetattr(terminal.slave) == terminal.settings
    assert "word" in (tmp_path / "state" / "tandem" / "history").read_text()
    assert terminal.wait() == code and "stopped" not in terminal.shown


def test_several_lines(chat, tmp_path):
    terminal = chat("--max-tokens", "1")
    terminal.enter("one\\")
    assert "breaks off" in terminal.enter("two")
    paste = "\033[200~three\r/four\tfive\033[31m\n\033[201~"  # no key in it counts
    assert "breaks off" in terminal.enter(paste + "!")
    terminal.enter(f"/save {tmp_path}/saved")
    questions = [message["content"] for message in messages_of(tmp_path / "saved")[::2]]
    assert questions == ["one\ntwo", "three\n/four\tfive[31m!"]
    terminal.leave()


def test_editing(chat):
    terminal = chat()
    assert terminal.enter("the capital of France?\x01What is \x05\x7f?") == PARIS  # to its beginning, to its end
    assert terminal.enter("What is the capital of X\x7fFrance?") == PARIS
    assert terminal.enter("/he\t") == terminal.enter("/help")
    assert "Ctrl-D leaves" in terminal.enter("/h\t")
    assert "there is no system's message" in terminal.enter("/s\tystem")  # it could be three
    terminal.leave()


def test_history(chat, tmp_path):
    path = tmp_path / "state" / "tandem" / "history"
    before = os.umask(0)
    try:
        terminal = chat()
        assert terminal.enter(FRANCE) == PARIS
        assert path.is_file()  # before it ends: a terminal that is closed leaves no time
        terminal.enter("/reset")
        terminal.leave()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    terminal = chat()
    assert terminal.enter("\033[A\033[A") == PARIS
    assert terminal.enter("\x12rese") == "forgotten"  # Ctrl-R
    terminal.leave()


def test_history_is_not_kept(chat, tmp_path):
    other = tmp_path / "no history"
    other.write_text("something dear\n")
    terminal = chat("--history", other)
    assert "will not be remembered" in terminal.shown
    terminal.enter(FRANCE)
    terminal.leave()
    assert other.read_text() == "something dear\n"
    terminal = chat("--history", "none")
    terminal.enter(FRANCE)
    terminal.leave()
    assert not (tmp_path / "state" / "tandem").exists() and not pathlib.Path("none").exists()


def test_colours(chat):
    plain = chat()
    plain.enter(FRANCE)
    plain.leave()
    assert not COLOUR.search(plain.shown)
    colourful = chat(NO_COLOR="")
    assert COLOUR.search(colourful.shown)
    assert not COLOUR.search(colourful.enter(FRANCE))  # the answer is plain
    assert "\033[1m>\033[0m " in colourful.shown and not colourful.shown.endswith("\033[1m> ")
    colourful.leave()


def test_dumb_terminal(tmp_path):
    terminal = Terminal("chat", "--temperature", "0", "--history", "none", TERM="dumb")
    terminal.wait_for("> ")
    terminal.type(FRANCE + "\r")
    terminal.wait_for(PARIS)
    terminal.type("\x04")
    assert terminal.wait() == 0 and "\033" not in terminal.shown


def test_control_characters_are_shown(chat):
    terminal = chat("--system", "a\033[2Jb")
    assert terminal.enter("/system") == "a^[[2Jb"
    terminal.leave()


def test_typed_ahead(chat):
    """What is typed while an answer is written is there at the next prompt, Ctrl-D too."""
    terminal = chat(*ENDLESS, "--max-tokens", "100")
    terminal.type(STORY + "\r")
    terminal.wait_for(" ", terminal.wait_for(READS_NO_MORE))
    terminal.type("/stats\n\x04")
    assert terminal.wait() == 0
    assert "conversation  2 messages" in terminal.shown


def test_window_changes(chat):
    terminal = chat()
    terminal.type("What is the capital ")
    terminal.wait_for("What is the capital ")
    since = len(terminal.shown)
    terminal.resize(30, 40)
    terminal.process.send_signal(signal.SIGWINCH)  # not every system sends it by itself
    terminal.wait_for("What is the capital ", since)  # it is drawn anew
    assert terminal.enter("of France?") == PARIS
    terminal.leave()


def test_window_changes_all_the_time(chat):
    """As while a corner of it is drawn: a signal that comes while the line is written takes nothing of it away."""
    terminal = chat()
    for _ in range(10000):
        terminal.process.send_signal(signal.SIGWINCH)
    assert terminal.enter(FRANCE) == PARIS
    terminal.leave()


def test_long_paste(chat, tmp_path):
    """Longer than the screen; as a question it would be too long."""
    terminal = chat()
    text = "".join(f"line {i}\r" for i in range(1500))
    assert "this is too long" in terminal.enter(f"\033[200~{text}\033[201~")
    assert terminal.enter(FRANCE) == PARIS
    terminal.leave()


def test_stopped_and_continued(chat):
    """As by Ctrl-Z and fg: the shell has had the terminal in between, and has its own settings of it."""
    terminal = chat()
    terminal.type("the capital ")
    terminal.wait_for("the capital ")
    edited = termios.tcgetattr(terminal.slave)
    terminal.process.send_signal(signal.SIGSTOP)
    plain = list(edited)
    plain[3] |= termios.ICANON | termios.ECHO
    termios.tcsetattr(terminal.slave, termios.TCSANOW, plain)
    since = len(terminal.shown)
    terminal.process.send_signal(signal.SIGCONT)
    terminal.wait_for("the capital ", since)  # shown again
    terminal.wait_until(lambda: termios.tcgetattr(terminal.slave)[3] == edited[3])
    assert terminal.enter("of France?\x01What is ") == PARIS
    terminal.leave()


def test_terminal_goes_away(chat):
    terminal = chat()
    terminal.hang_up()
    assert terminal.process.wait(tandem.PATIENCE_S) in (0, -signal.SIGHUP)
