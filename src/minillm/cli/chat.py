"""Talk with a model in the terminal."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder, .gguf file or pulled name")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument(
        "--max-tokens", type=int, default=1024, metavar="N", help="longest answer (1024)"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="0 is greedy (0.8)"
    )
    parser.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="only the K best, 0 for all (0)"
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="only the nucleus (1)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the first answer, then N + 1 ... (0)"
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help="use less of the context than the model has"
    )
    parser.add_argument("--template", metavar="FILE", help="chat template (Jinja) to use instead")
    parser.add_argument("--history", metavar="FILE", help="keep what is typed in a file")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the extension")


def run(arguments: argparse.Namespace) -> int:
    from minillm import kernels
    from minillm.cli.keyboard import Messages
    from minillm.cli.talk import Settings, Talk
    from minillm.cli.texts import read_file
    from minillm.generation.conversation import Conversation
    from minillm.models.folder import load

    if arguments.threads is not None:
        kernels.set_threads(arguments.threads)
    settings = Settings(
        arguments.max_tokens, arguments.temperature, arguments.top_k, arguments.top_p
    )
    model, tokenizer = load(arguments.model)
    if model.config.kind != "decoder":
        raise ValueError(f"chat: the model is an {model.config.kind}, a decoder is needed")
    if arguments.template is not None:
        tokenizer.chat_template = read_file("chat", arguments.template)
    if tokenizer.chat_template is None:
        raise ValueError(
            f"chat: {arguments.model} has no chat template, one is needed; --template FILE gives "
            "one (minillm generate continues texts without)"
        )
    limits = [n for n in (model.config.context, arguments.context) if n is not None]
    if arguments.context is not None and arguments.context < 1:
        raise ValueError(f"--context: {arguments.context}, 1 or more is needed")
    context = min(limits, default=None)
    conversation = Conversation(tokenizer, arguments.system, context)
    talk = Talk(model, conversation, settings, arguments.seed)
    return talk.run(Messages(arguments.history))
