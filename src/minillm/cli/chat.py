"""Talk with a model in the terminal."""

from __future__ import annotations

import argparse

from minillm.cli.adapted import add_adapter, load
from minillm.cli.decoding_flags import SETTINGS, add_flags, given
from minillm.cli.machine_flags import add_machine, settle

MAX_TOKENS = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder, .gguf file or pulled name")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    add_flags(
        parser,
        (*SETTINGS, "cache_dtype"),
        max_tokens=f"most tokens of an answer ({MAX_TOKENS:,})",
        temperature="0 is greedy (0.8)",
        seed="of the first answer, then N + 1 and so on (0)",
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help="use less of the context than the model has"
    )
    parser.add_argument("--template", metavar="FILE", help="chat template (Jinja) to use instead")
    parser.add_argument("--history", metavar="FILE", help="keep what is typed in a file")
    add_adapter(parser)
    add_machine(parser)


def run(arguments: argparse.Namespace) -> int:
    from minillm.cli.keyboard import Messages
    from minillm.cli.main import tell
    from minillm.cli.talk import Talk
    from minillm.cli.texts import read_file
    from minillm.generation.conversation import Conversation
    from minillm.generation.options import Options

    settle(arguments)
    options = Options.of(**({"max_tokens": MAX_TOKENS} | given(arguments)))
    if options.unused:
        tell(f"minillm: note: {options.unused}")
    if arguments.context is not None and arguments.context < 1:
        raise ValueError(f"context: {arguments.context}, 1 or more is needed")
    model, tokenizer = load(arguments.model, arguments.adapter)
    if model.config.kind != "decoder":
        raise ValueError(f"chat: the model is an {model.config.kind}, a decoder is needed")
    if arguments.template is not None:
        tokenizer.chat_template = read_file("chat", arguments.template)
    if tokenizer.chat_template is None:
        raise ValueError(
            f"chat: {arguments.model} has no chat template, one is needed; --template FILE gives "
            "one (minillm generate continues texts without)"
        )
    context = model.config.context
    if arguments.context is not None:
        if context is not None and arguments.context > context:
            raise ValueError(
                f"context: {arguments.context}, at most {context} (the model's) is needed"
            )
        context = arguments.context
    conversation = Conversation(tokenizer, arguments.system, context)
    talk = Talk(model, conversation, options, arguments.model)
    return talk.run(Messages(arguments.history))
