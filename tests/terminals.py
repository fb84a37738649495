"""A program at a pseudo-terminal: type, and read until something has been said."""

import codecs
import os
import select
import subprocess
import sys
import time

from small_runs import environment

LEAD = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C typed here is a signal there
os.execv(sys.argv[1], sys.argv[1:])
"""
PATIENCE = 60.0  # seconds


class Terminal:
    """Runs `words` with a terminal for all its input and output, until the block ends."""

    def __init__(self, words, **changes):
        self.seen = ""  # all that was written
        self._read = 0
        self._words, self._changes = words, {"TERM": "dumb", "INPUTRC": os.devnull} | changes

    def __enter__(self):
        import pty
        import termios

        self._master, slave = pty.openpty()
        modes = termios.tcgetattr(slave)
        modes[1] &= ~termios.OPOST  # a newline stays one
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        self._process = subprocess.Popen(
            [sys.executable, "-c", LEAD, *self._words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(**self._changes),
            start_new_session=True,
        )
        os.close(slave)
        self._decode = codecs.getincrementaldecoder("utf-8")().decode  # broken text raises
        return self

    def __exit__(self, *error):
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._master)

    def type(self, text):
        os.write(self._master, text.encode("utf-8"))

    def until(self, text):
        """What is written from where the last call ended, up to and with `text`."""
        end = time.monotonic() + PATIENCE
        while text not in self.seen[self._read :]:
            if not self._more(end):
                raise AssertionError(f"{text!r} never came after {self.seen[self._read :]!r}")
        begin, self._read = self._read, self.seen.index(text, self._read) + len(text)
        return self.seen[begin : self._read]

    def ends(self):
        """The exit code, once the program has left."""
        end = time.monotonic() + PATIENCE
        while self._more(end):
            pass
        return self._process.wait(PATIENCE)

    def _more(self, end):
        """Read what has come; False when no more will."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the program closed the terminal
            return False
        self.seen += self._decode(data, not data)
        return bool(data)
