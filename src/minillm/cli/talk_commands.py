"""What can be said to the program instead of the model: lines that begin with /."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minillm.cli.decoding_flags import FLAGS, SETTINGS
from minillm.cli.texts import read_file
from minillm.formats.files import atomic_write_text
from minillm.generation.conversation import from_json
from minillm.generation.options import DRAWING
from minillm.quantities import counted
from minillm.words import meant

if TYPE_CHECKING:
    from minillm.cli.talk import Talk

LINES = [
    ('"""', 'begins a message of several lines, up to the next """'),
    (" /...", "a message that begins with a slash: put a space before it"),
]


def obey(talk: Talk, line: str) -> None:
    """Do what a line says. ValueError for an unknown command or a wrong value."""
    name, _, rest = line.strip().partition(" ")
    if name not in COMMANDS:
        raise ValueError(f"chat: unknown command {name}{meant(name, COMMANDS)}")
    COMMANDS[name](talk, rest.strip())


def show_help(talk: Talk, rest: str) -> None:
    """list the commands"""
    rows = [(f"{name} {FORMS.get(name, '')}", act.__doc__ or "") for name, act in COMMANDS.items()]
    for form, text in [*rows, *LINES]:
        talk.say(f"{form:<18}{text}")


def reset(talk: Talk, rest: str) -> None:
    """forget the conversation; the system message stays"""
    talk.conversation.clear()
    talk.say("the conversation is empty")


def system(talk: Talk, rest: str) -> None:
    """show the system message, or change it ("" removes it)"""
    if rest:
        talk.conversation.instruct(None if rest == '""' else rest)
    talk.say(f"system message: {talk.conversation.system or 'none, or what the template puts'}")


def retry(talk: Talk, rest: str) -> None:
    """answer the last message again, with the next seed"""
    if not talk.conversation.take_back_answer():
        raise ValueError("/retry: nothing was said yet, a message is needed")
    talk.reply()


def undo(talk: Talk, rest: str) -> None:
    """take back the last message and its answer"""
    text = talk.conversation.take_back_turn()
    if text is None:
        raise ValueError("/undo: nothing was said yet, a message is needed")
    talk.say(f"taken back: {text}")


def save(talk: Talk, rest: str) -> None:
    """write the conversation to a new file, as JSON"""
    if not rest:
        raise ValueError("/save: no name given, that of a file is needed")
    if Path(rest).exists() and rest != talk.file:
        raise ValueError(f"/save: {rest} is there already, another name is needed")
    if not talk.conversation.to_list():
        raise ValueError("/save: nothing was said yet, a message is needed")
    text = json.dumps(talk.conversation.to_list(), ensure_ascii=False, indent=1)
    atomic_write_text(Path(rest), text + "\n")
    talk.file = rest
    talk.say(f"saved {_messages(talk)}")


def load(talk: Talk, rest: str) -> None:
    """go on with a conversation that was saved"""
    if not rest:
        raise ValueError("/load: no name given, that of a file is needed")
    talk.conversation.replace(from_json(read_file("/load", rest)))
    talk.file = rest
    waits = "; the last one waits for its answer: /retry" if talk.conversation.waits else ""
    talk.say(f"loaded {_messages(talk)}{waits}")


def change(talk: Talk, rest: str) -> None:
    """show the settings, or change one"""
    if rest:
        name, _, value = rest.partition(" ")
        name = name.replace("-", "_")
        if name not in SETTINGS:
            raise ValueError(f"/set: unknown setting {name}{meant(name, SETTINGS)}")
        talk.use(dataclasses.replace(talk.options, **{name: _value(name, value)}))
        chosen = getattr(talk.options, name) != DRAWING.get(name, getattr(talk.options, name))
        if chosen and talk.options.unused:
            talk.say(f"({talk.options.unused})")
    for one in (name,) if rest else SETTINGS:
        talk.say(f"{one:<20}{getattr(talk.options, one)}")


def _value(name: str, text: str) -> Any:
    """What a setting is given, as its kind."""
    if name == "stop":
        return (text,) if text else ()
    try:
        return FLAGS[name][0](text)
    except ValueError:
        raise ValueError(f"/set: {name} is {text!r}, a number is needed") from None


def _messages(talk: Talk) -> str:
    return counted(len(talk.conversation.messages), "message")


def stats(talk: Talk, rest: str) -> None:
    """show tokens, seconds and speed"""
    context = talk.conversation.context
    said = _messages(talk)
    if talk.conversation.forgotten:
        said += f", the oldest {talk.conversation.forgotten} no longer seen by the model"
    if not talk.answers:
        talk.say(f"{said}; no answer yet")
        return
    last = talk.answers[-1]
    of = "" if context is None else f" of {context:,}"
    read, wrote = counted(last.prompt, "token"), counted(last.tokens, "token")
    talk.say(
        f"{said}; {last.prompt + last.tokens:,}{of} tokens of context used\n"
        f"last answer: {read} to read, {last.known:,} of them known already; first "
        f"token after {last.first:.2f} s; {wrote} in {last.seconds:.2f} s, "
        f"{last.speed:.1f} tokens/s; seed {last.seed}"
    )


def leave(talk: Talk, rest: str) -> None:
    """leave"""
    talk.left = True


COMMANDS: dict[str, Callable[[Talk, str], None]] = {
    "/help": show_help,
    "/reset": reset,
    "/system": system,
    "/retry": retry,
    "/undo": undo,
    "/save": save,
    "/load": load,
    "/set": change,
    "/stats": stats,
    "/exit": leave,
}
FORMS = {
    "/system": "[TEXT]",
    "/save": "FILE",
    "/load": "FILE",
    "/set": "[NAME VALUE]",
}
