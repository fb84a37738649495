"""A model whose every token follows from the one before it, by a table; and its chat template."""

import numpy as np

from minillm import no_grad
from minillm.models import Llama, LlamaConfig
from minillm.models.folder import save_model
from minillm.tokenizers import BPETokenizer
from minillm.tokenizers.byte_alphabet import ALPHABET

CHATML = """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
END, START, TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = {END: 256, START: 257, TURN: 258}


def tokenizer(template=CHATML, pieces=()):
    """Bytes, control tokens and ASCII pieces, which only a model writes; the end of a text is not
    that of a turn."""
    spelled = ["".join(ALPHABET[byte] for byte in piece.encode("ascii")) for piece in pieces]
    made = BPETokenizer([*ALPHABET, *SPECIALS, *spelled], [], SPECIALS, END)
    made.chat_template = template
    return made


def ids_of(text):
    """Ids of bytes, and of control tokens where they are spelled."""
    return tokenizer().encode(text, split_special_tokens=False)


def bigram(*chains, context=4096, pieces=0, **options):
    """After each token of a chain comes the next; after what stands in several, one of them.

    A chain is a text or ids."""
    known = len(ALPHABET) + len(SPECIALS) + pieces
    size = known + known % 2  # a head of width 2 needs an even number
    model = Llama(
        LlamaConfig(
            vocab_size=size,
            hidden_size=size,
            intermediate_size=2,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=2,
            max_position_embeddings=context,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=SPECIALS[END],
            **options,
        )
    )
    with no_grad():
        for parameter in model.parameters():
            parameter.copy_(np.full(parameter.shape, parameter.ndim == 1))
        model.embed_tokens.weight.copy_(np.eye(size))
        follows = np.zeros((size, size))
        for chain in chains:
            ids = ids_of(chain) if isinstance(chain, str) else chain
            follows[ids[1:], ids[:-1]] = 2
        model.lm_head.weight.copy_(follows)
    return model.eval()


def saved(folder, *chains, template=CHATML, **options):
    """A model folder with such a model in it."""
    save_model(folder, bigram(*chains, **options), tokenizer(template))
    return folder
