"""A program on a terminal of its own: what is typed, what it shows, how it ends."""
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

import tandem


class Terminal:
    """Starts a program whose standard streams are one pseudo-terminal; `shown` is all that has come from it."""

    def __init__(self, *arguments, rows=24, columns=100, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("TANDEM_", "NO_COLOR", "XDG_"))}
        self.master, slave = pty.openpty()
        self.slave = slave
        self.settings = termios.tcgetattr(slave)  # before a program has set any
        self.resize(rows, columns)
        self.process = subprocess.Popen([tandem.BINARY, *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave,
                                        start_new_session=True, preexec_fn=control_terminal,
                                        env={**clean, "TERM": "xterm", "LANG": "C.UTF-8", **environment})
        self.shown = ""
        self.bytes = b""

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds):
        if select.select([self.master], [], [], seconds)[0]:
            try:
                self.bytes += os.read(self.master, 65536)
            except OSError:  # its side is closed
                return False
            self.shown = self.bytes.decode(errors="replace")
        return True

    def wait_for(self, text, since=0):
        """Where `text` ends in what is shown behind `since`."""
        deadline = time.monotonic() + tandem.PATIENCE_S
        while text not in self.shown[since:]:
            assert time.monotonic() < deadline and self.process.poll() is None, (text, self.shown[since:])
            self.read(0.1)
        return since + self.shown[since:].index(text) + len(text)

    def wait_until(self, holds):
        deadline = time.monotonic() + tandem.PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline and self.process.poll() is None, self.shown
            self.read(0.01)

    def type(self, text):
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def wait(self):
        """The exit status; all that was shown is in `shown` then."""
        deadline = time.monotonic() + tandem.PATIENCE_S
        try:
            while self.process.poll() is None:
                assert time.monotonic() < deadline, self.shown
                self.read(0.05)
            while select.select([self.master], [], [], 0)[0] and self.read(0):
                pass
            return self.process.returncode
        finally:
            self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self.hang_up()

    def hang_up(self):
        files, self.master, self.slave = (self.master, self.slave), None, None
        for file in files:
            if file is not None:
                os.close(file)


def control_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
