"""Small vocabularies, and models without sense that write under a constraint."""

import numpy

from minillm.tokenizers import BPETokenizer, ByteTokenizer, CharTokenizer

BYTES = ByteTokenizer()
_WORDS = [
    "ab", "abc", "cab", "a1", "12", "123", "0.", "00", "  ", "   ", "\n ", '":', '"}', ' ":', '{"',
    '":"', '","', ' "', '",', '"]', "},{", "[]", "{}", "]]", "[[", "[[[", "tr", "true", "false",
    "null", "é", "né", "aé", '\\"', "\\u", "\\u00", "\\ud8", "\\n", "-1", "e+", "E1", ".5", ".5.",
    "): ", "\u4e2d", "\u4e2d\u6587", "🙂", "🙂🙂", "name", "id", "12:", "-0", "2024", "@a", "zzzz",
]  # fmt: skip


def _merges():
    """Merges that make every word of the list a token, byte by byte from the left."""
    from minillm.tokenizers.byte_alphabet import spell

    found = []
    for word in _WORDS:
        letters = spell(word.encode())
        for end in range(1, len(letters)):
            found.append(f"{letters[:end]} {letters[end]}")
    return list(dict.fromkeys(found))


MERGED = BPETokenizer.from_merges(_merges())
LETTERS = CharTokenizer.from_characters('abcé01"{}:,')  # nothing else can be written
BIASES = {
    "none": lambda piece: 0,
    "spaces": lambda piece: piece.isspace(),
    "digits": lambda piece: piece.isdigit() or piece == b".",
    "quotes": lambda piece: piece.count(b'"') / max(1, len(piece)),
    "backslashes": lambda piece: b"\\" in piece,
    "long": lambda piece: len(piece) / 4,
    "open": lambda piece: piece.count(b"[") + piece.count(b"{"),
    "broken": lambda piece: any(byte >= 0x80 for byte in piece),
}


def bias(tokenizer, name):
    """How much a model likes each token, (V,)."""
    pieces = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
    return 6.0 * numpy.array([float(BIASES[name](piece)) for piece in pieces])


def write(constraint, tokenizer, budget, rng, liking, ends_early=False):
    """The ids that a model of random logits writes within `budget`, and the state they lead to."""
    state, ids = constraint.start(), []
    for used in range(budget):
        allowed = state.allowed(budget - used)
        assert allowed.shape == (tokenizer.vocab_size,) and allowed.dtype == bool
        if tokenizer.eos_id is not None:
            assert allowed[tokenizer.eos_id] == state.complete
            if state.complete and (state.finished or ends_early):
                break
        logits = numpy.where(allowed, liking + rng.gumbel(size=len(liking)), -numpy.inf)
        ids.append(int(logits.argmax()))
        if ids[-1] == tokenizer.eos_id:
            return ids[:-1], state
        state.advance(ids[-1])
        if state.finished:
            break
    return ids, state


def least(constraint):
    """The fewest tokens that the constraint says a text needs."""
    state = constraint.start()
    try:
        state.allowed(0)
    except ValueError as error:
        return int(str(error).split("at least ")[1].split()[0])
    return 0


def accepts(constraint, data):
    """Whether bytes, as tokens of BYTES, are a text of the language."""
    state = constraint.start()
    for byte in data:
        if not state.allowed(10_000)[byte]:
            return False
        state.advance(byte)
    return state.complete
