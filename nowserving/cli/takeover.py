"""The demo's second half: a chat streams, its worker is killed with -9 in mid-sentence, another goes on."""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue

from rich.text import Text

from nowserving.cli.stack import TICK_SECONDS, pid_of
from nowserving.cli.stage import Stage
from nowserving.cli.watch import Watched, follow, submit
from nowserving.client import Client, JobEvent

KILL_AFTER_TOKENS = 12
SETTLE_SECONDS = 0.3
"""What the dead worker wrote before it died may take so long to be seen."""
INDENT = "   "


def run(stage: Stage, client: Client, calm: Watched, model: str, max_new_tokens: int) -> tuple[Watched, list[str]]:
    """Run the chat `calm` once more, disturbed; what is wrong with how it went. Raises PartError or Interrupted."""
    chat = Watched(calm.number, calm.prompt)
    submit(client, chat, model, max_new_tokens)
    stage.console.print(Text(f"\n{chat.number}. {chat.prompt}", style="bold"))
    heard: SimpleQueue[tuple[JobEvent, float]] = SimpleQueue()
    follow(stage.stack.url, chat, lambda event, at: heard.put((event, at)))
    takeover = Takeover(stage, chat, min(KILL_AFTER_TOKENS, max_new_tokens // 2))
    while not (chat.ended and heard.empty()):
        stage.tick(0)
        try:
            takeover.note(*heard.get(timeout=TICK_SECONDS))
        except Empty:
            # Only then: while the worker was being killed, tokens that it had written may have come.
            takeover.look()
    same = chat.text == calm.text
    counts = f"{chat.tokens} tokens, {chat.repeated} twice, {chat.missing} missing"
    stage.console.print(f"\n\n{counts}; the same text as undisturbed: {'yes' if same else 'no'}.")
    wrong = [] if same else [f"the text is another than undisturbed: {calm.text!r}"]
    if not takeover.resumed:
        wrong.append("no worker took over from one that was killed")
    return chat, wrong


class Takeover:
    """Prints the chat as it is written, and kills its worker once."""

    def __init__(self, stage: Stage, chat: Watched, kill_after_tokens: int) -> None:
        self.resumed = False
        self._stage, self._chat, self._kill_after_tokens = stage, chat, kill_after_tokens
        self._worker = ""
        self._killed = ""
        self._killed_at = 0.0
        self._told = False
        self._begun = False

    def note(self, event: JobEvent, at: float) -> None:
        """Take in one event of the chat. Raises PartError if its worker cannot be found."""
        self._chat.note(event, at)
        if event.type == "started":
            self._worker = str(event.data.get("worker"))
        elif event.type == "queued" and self._killed:
            self._tell_killed()
        elif event.type == "restarted":
            self._say("it begins anew", "dim")
        elif event.type == "token":
            if self._killed and self._worker != self._killed and not self.resumed:
                self._tell_resumed(int(event.data["index"]), at)
            self._write(event.text)
            if not self._killed and self._chat.tokens >= self._kill_after_tokens and self._amid_sentence():
                self._kill()

    def look(self) -> None:
        """Say after a moment how far the dead worker came."""
        if self._killed and time.monotonic() > self._killed_at + SETTLE_SECONDS:
            self._tell_killed()

    def _amid_sentence(self) -> bool:
        return not self._chat.text.rstrip().endswith((".", "!", "?", ":"))

    def _kill(self) -> None:
        self._killed, self._killed_at = self._worker, time.monotonic()
        self._stage.stack.kill_worker(self._worker)

    def _tell_killed(self) -> None:
        if not self._told:
            self._told = True
            self._say(f"worker {pid_of(self._killed)} killed with -9 after token {self._chat.tokens}", "bold red")

    def _tell_resumed(self, index: int, at: float) -> None:
        self.resumed = True
        self._tell_killed()
        later = f"{at - self._killed_at:.1f} s later"
        self._say(f"worker {pid_of(self._worker)} goes on at token {index + 1}, {later}", "bold green")

    def _say(self, sentence: str, style: str) -> None:
        self._stage.console.print(Text(f" [{sentence}]", style=style), end="", soft_wrap=True)

    def _write(self, text: str) -> None:
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
            text = INDENT + text if text else ""
        self._stage.console.print(Text(text.replace("\n", "\n" + INDENT)), end="", soft_wrap=True)
