"""Speculative decoding: the same ids as without, or the same distribution, whatever the draft."""

import itertools
import math
import re

import numpy as np
import pytest

import small_gpt2
import small_llama
import small_t5
import small_transformer
from minillm import Tensor, no_grad
from minillm.arrays import new_generator
from minillm.generation import Reader, Sampler
from minillm.generation.constraints import regex
from minillm.generation.drafting import LookupDraft, require_same_vocabulary
from minillm.generation.sampling import Seen
from minillm.generation.speculative import speculate
from minillm.kernels import MANY_ROWS
from minillm.models import GPT2, GPT2Config
from minillm.tokenizers import CharTokenizer
from table_model import MarkovModel, log

GREEDY = Sampler(temperature=0)
SOURCE = [1, 5, 12, 7, 3]


def random_gpt2(seed, **options):
    """Far from uniform: greedy texts do not all end in a loop of one id."""
    sizes = {"vocab_size": 13, "n_positions": 64, "n_embd": 12, "n_layer": 2, "n_head": 3}
    model, rng = GPT2(GPT2Config(**sizes | options)), np.random.default_rng(seed)
    with no_grad():
        for parameter in model.parameters():
            parameter.copy_(rng.normal(0, 0.7, parameter.shape))
    return model.eval()


class Wrong:
    """A model that always prefers the id after the one that `model` prefers."""

    def __init__(self, model):
        self.model, self.config = model, model.config
        self.encode = getattr(model, "encode", None)

    def eval(self):
        return self

    def changed(self, logits):
        return Tensor(np.roll(logits.numpy(), 1, axis=-1))

    def __call__(self, *inputs):
        return self.changed(self.model(*inputs))

    def next_logits(self, *inputs):
        return self.changed(self.model.next_logits(*inputs))

    def decode(self, *inputs):
        return self.changed(self.model.decode(*inputs))


def plain(model, prompt, count, sampler=GREEDY, seed=0, ends=(), source=None, vocab_size=None,
          allowed=None):  # fmt: skip
    """Token by token."""
    reader, generator, ids = Reader(model), new_generator(seed), []
    reading, unread = reader.begin(source), [*reader.start_ids, *prompt]
    seen = Seen(unread)
    while len(ids) < count and not (ids and ids[-1] in ends):
        logits = reader.read([(reading, unread)])[0][:vocab_size]
        mask = None if allowed is None else allowed.allowed(count - len(ids))
        ids.append(sampler.pick(logits, generator, seen, mask))
        seen.push(ids[-1])
        if allowed is not None:
            allowed.advance(ids[-1])
        unread = ids[-1:]
    return ids


def run(model, prompt, count, sampler=GREEDY, seed=0, draft=None, **options):
    if draft is not None:
        options["draft"] = Reader(draft)
    generator = new_generator(seed)
    ids = speculate(Reader(model), prompt, sampler, generator, max_tokens=count, **options)
    return ids, list(ids)


TARGETS = {
    "gpt2": (lambda: random_gpt2(0), [1, 5, 12], None),
    "llama": (small_llama.small, [1, 5, 12], None),
    "mistral": (lambda: small_llama.small("mistral"), [1, 5, 12], None),
    "qwen3, window": (lambda: small_llama.small("qwen3, window"), [1, 5, 12], None),
    "yarn": (lambda: small_llama.small("yarn"), [1, 5, 12], None),
    "t5": (small_t5.small, [], SOURCE),
    "transformer": (small_transformer.small, [4], SOURCE),
}
AHEAD = [(1, False), (8, False), (8, True)]


@pytest.mark.parametrize("ahead, adaptive", AHEAD)
@pytest.mark.parametrize("name", TARGETS)
def test_greedy_ids_are_those_of_plain_decoding(name, ahead, adaptive):
    make, prompt, source = TARGETS[name]
    model = make()
    right = plain(model, prompt, 25, source=source)
    drafts = {"itself": make(), "wrong": Wrong(make())}
    if name == "llama":
        drafts |= {"other": small_llama.small("qwen3"), "gpt2": random_gpt2(3, vocab_size=17)}
    for kind, draft in drafts.items():
        options = {"ahead": ahead, "adaptive": adaptive, "source": source}
        got, ids = run(model, prompt, 25, draft=draft, **options)
        assert ids == right, kind
        if kind == "itself":
            assert got.accepted == got.drafted > 0
            assert adaptive or got.readings == 1 + math.ceil(24 / (ahead + 1))
        if kind == "wrong":
            assert got.accepted == 0 < got.drafted and got.readings == 25
    for lookup in (1, 3):
        _, ids = run(model, prompt, 25, lookup=lookup, ahead=ahead, adaptive=adaptive,
                     source=source)  # fmt: skip
        assert ids == right


def test_many_random_models_and_drafts():
    shares = []
    for seed in range(20):
        model = random_gpt2(seed)
        prompt = [seed % 13, 5, 7]
        right = plain(model, prompt, 25)
        for ahead in (1, 8):
            got, ids = run(model, prompt, 25, draft=random_gpt2(seed + 100), ahead=ahead)
            assert ids == right
            noisy = random_gpt2(seed)
            with no_grad():
                for place, parameter in enumerate(noisy.parameters()):
                    rng = np.random.default_rng(place)
                    parameter.copy_(parameter.data + rng.normal(0, 0.05, parameter.shape))
            got, ids = run(model, prompt, 25, draft=noisy, ahead=ahead)
            assert ids == right
            shares.append(got.accepted / got.drafted)
            _, ids = run(model, prompt, 25, lookup=2, ahead=ahead)
            assert ids == right
    assert min(shares) < 0.7 and max(shares) > 0.9  # some drafts were refused, some were kept


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("name", ["gpt2", "mistral", "t5"])
def test_it_holds_for_caches_of_fewer_bytes(name, dtype):
    """What is taken back leaves no trace in them either."""
    make, prompt, source = TARGETS[name]
    reader, right = Reader(make(), cache_dtype=dtype), []
    reading, unread = reader.begin(source), [*reader.start_ids, *prompt]
    for _ in range(25):
        unread = [int(reader.read([(reading, unread)])[0].argmax())]
        right += unread
    for draft in (make(), Wrong(make())):
        ids = speculate(reader, prompt, GREEDY, new_generator(0), ahead=8, source=source,
                        draft=Reader(draft, cache_dtype=dtype), max_tokens=25)  # fmt: skip
        assert list(ids) == right
        assert ids.reading.cache.length == ids.reading.length


@pytest.mark.parametrize("ahead", [1, 4, 8])
def test_an_end_inside_a_draft_ends_the_text(ahead):
    model = random_gpt2(4)
    whole = plain(model, [1, 2], 30)
    for place in range(8):
        ends = {whole[place]}
        right = plain(model, [1, 2], 30, ends=ends)
        assert right[-1] in ends
        for options in ({"draft": random_gpt2(4)}, {"draft": random_gpt2(5)}, {"lookup": 2}):
            got, ids = run(model, [1, 2], 30, ends=ends, ahead=ahead, adaptive=False, **options)
            assert ids == right
            assert got.reading.ids == [1, 2, *right[:-1]]
            assert not any(ids.count(end) > 1 for end in ends)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 9, 10, 63])
def test_the_last_token_inside_a_draft_ends_the_text(count):
    """No id beyond is read: the context of the 63 is just filled."""
    model = random_gpt2(4)
    for options in ({"draft": random_gpt2(4)}, {"draft": Wrong(random_gpt2(4))}, {"lookup": 2}):
        got, ids = run(model, [1, 2], count, ahead=8, adaptive=False, **options)
        assert ids == plain(model, [1, 2], count)
        assert got.reading.length == (2 + count - 1 if count else 0)


def test_both_caches_hold_what_was_written_but_the_last_id():
    model, prompt, draft = random_gpt2(4), [1, 2, 3], random_gpt2(4)
    with no_grad():
        for place, parameter in enumerate(draft.parameters()):
            noise = np.random.default_rng(place).normal(0, 0.15, parameter.shape)
            parameter.copy_(parameter.data + noise)
    ids = speculate(Reader(model), prompt, Sampler(1.2), new_generator(0), draft=Reader(draft),
                    ahead=8, adaptive=False, max_tokens=60)  # fmt: skip
    text, refusals = [*prompt], 0
    while len(text) < 60:
        before = ids.drafted, ids.accepted
        text.append(next(ids))
        drafted, kept = ids.drafted - before[0], ids.accepted - before[1]
        text += [next(ids) for _ in range(kept)]
        assert ids.reading.ids == text[:-1]
        assert ids.reading.cache.length == len(text) - 1
        if drafted > kept:
            refusals += 1
            assert ids.draft.reading.ids == text[:-1]
            assert ids.draft.reading.cache.length == len(text) - 1
    assert refusals > 3 and ids.accepted > 3


def test_a_draft_with_a_shorter_context_stops_drafting():
    model = random_gpt2(4)
    right = plain(model, [1, 2], 50)
    for context in (1, 2, 3, 10, 20):
        got, ids = run(model, [1, 2], 50, draft=random_gpt2(4, n_positions=context), ahead=4)
        assert ids == right
        assert (got.drafted > 0) == (context > 2)
        assert got.draft.reading.length <= context


def test_a_full_context_is_the_error_that_it_is_without_a_draft():
    model = random_gpt2(4, n_positions=12)
    for options in ({"draft": Reader(random_gpt2(4))}, {"lookup": 2}):
        ids = speculate(Reader(model), [1, 2], GREEDY, new_generator(0), **options)
        assert list(itertools.islice(ids, 11)) == plain(model, [1, 2], 11)
        with pytest.raises(ValueError, match="13 tokens, the model's context is 12"):
            next(ids)


def test_a_model_whose_logits_depend_on_the_pieces_is_given_no_draft():
    model = small_llama.small("dynamic")
    assert model.reads_whole
    got, ids = run(model, [1, 5, 12], 12, draft=small_llama.small("dynamic"), ahead=4)
    assert ids == plain(model, [1, 5, 12], 12)
    assert got.drafted == 0


@pytest.mark.parametrize("size, vocab_size", [(20, None), (20, 8), (9, 8), (9, 9)])
def test_a_draft_with_an_embedding_of_another_size(size, vocab_size):
    """As padded ones have; ids that the model does not have, or must not choose, never come."""
    model, draft = random_gpt2(4), random_gpt2(8, vocab_size=size)
    for sampler in (GREEDY, Sampler(2.0)):
        got, ids = run(model, [1, 2], 40, sampler, draft=draft, vocab_size=vocab_size)
        assert max(ids) < (vocab_size or 13) and got.drafted > 0
        if sampler is GREEDY:
            assert ids == plain(model, [1, 2], 40, vocab_size=vocab_size)


class Alternating:
    """A constraint: even and odd ids in turn; it may end (3) after two ids, and must at the end."""

    finished = False

    def __init__(self, count, size, text=()):
        self.count, self.size, self.text = count, size, list(text)

    def fork(self):
        return Alternating(self.count, self.size, self.text)

    def allowed(self, remaining):
        assert remaining == self.count - len(self.text)
        ids = np.arange(self.size)
        mask = ids % 2 == len(self.text) % 2
        mask[3] = len(self.text) >= 2
        return ids == 3 if remaining == 1 else mask

    def advance(self, id):
        assert self.allowed(self.count - len(self.text))[id]
        self.text.append(id)


SAMPLERS = {
    "repetition": {"repetition_penalty": 1.7},
    "frequency, presence": {"frequency_penalty": 0.9, "presence_penalty": 0.7},
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_penalties_and_constraints_hold_for_drafted_ids(name):
    sampler, free = Sampler(0.0, **SAMPLERS[name]), 0
    for seed in range(6):
        model = random_gpt2(seed)
        right = plain(model, [1, 2], 40, sampler)
        free += right == plain(model, [1, 2], 40)
        for options in ({"draft": random_gpt2(seed)}, {"draft": random_gpt2(9)}, {"lookup": 2}):
            _, ids = run(model, [1, 2], 40, sampler, ahead=6, **options)
            assert ids == right
            bound = plain(model, [1, 2], 20, sampler, ends={3}, allowed=Alternating(20, 13))
            _, ids = run(model, [1, 2], 20, sampler, ahead=6, ends={3},
                         allowed=Alternating(20, 13), **options)  # fmt: skip
            assert ids == bound
    assert free < 3


def test_a_perfect_draft_is_kept_whole_under_penalties_and_constraints():
    """The draft sees what the model sees at each place."""
    sampler = Sampler(0.0, repetition_penalty=1.7, frequency_penalty=0.9)
    for seed in range(6):
        model = random_gpt2(seed)
        for allowed in (None, Alternating(40, 13)):
            got, _ = run(model, [1, 2], 40, sampler, draft=random_gpt2(seed), ahead=6, ends={3},
                         allowed=allowed)  # fmt: skip
            assert got.accepted == got.drafted > 0


@pytest.mark.parametrize("end", [True, False])
def test_a_regular_expression_holds(end):
    """Where no token ends texts, the text ends where nothing may follow."""
    tokenizer = CharTokenizer(
        [*"abcdefgh", *(["<end>"] if end else [])], {"<end>": 8} if end else {}
    )
    constraint = regex("((ab|ba)+c){2,5}", tokenizer)
    model = random_gpt2(1, vocab_size=tokenizer.vocab_size)
    same = random_gpt2(1, vocab_size=tokenizer.vocab_size)
    ends, texts = frozenset({8} if end else ()), set()
    for sampler in (GREEDY, Sampler(2.0)):
        for seed, options in itertools.product(range(5), ({"draft": same}, {"lookup": 3})):
            got, ids = run(model, [0], 30, sampler, seed, ends=ends, ahead=6,
                           allowed=constraint.start(ends=ends), **options)  # fmt: skip
            words = tokenizer.decode([id for id in ids if id != 8])
            assert re.fullmatch("((ab|ba)+c){2,5}", words)
            assert got.reading.length == len(ids)
            assert "draft" not in options or got.accepted == got.drafted > 0
            texts.add(words)
    assert len(texts) > 5


@pytest.mark.parametrize("options", [{"draft": 1}, {"lookup": 2}], ids=str)
def test_seeds_reproduce(options):
    model = random_gpt2(3)
    if "draft" in options:
        options = {"draft": random_gpt2(4)}
    sampler = Sampler(1.3, top_k=8, top_p=0.95)
    texts = [run(model, [1, 2], 40, sampler, seed, **options)[1] for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_lookup_gives_the_text_of_plain_sampling():
    for seed in range(10):
        model, sampler = random_gpt2(seed), Sampler(0.6, top_p=0.9)
        got, ids = run(model, [1, 2, 1, 2], 50, sampler, seed, lookup=2)
        assert ids == plain(model, [1, 2, 1, 2], 50, sampler, seed)
        assert got.accepted > 0


# --- distributions ---

TABLE = np.random.default_rng(1).normal(0, 1.5, (5, 5))
DRAFT = TABLE + np.random.default_rng(2).normal(0, 1.0, (5, 5))
DRAFTS = {
    "near": DRAFT,
    "same": TABLE,
    "uniform": np.zeros((5, 5)),
    "wrong": -3 * TABLE,
    "blind": np.where(np.arange(5) == TABLE.argmax(axis=1)[:, None], -np.inf, DRAFT),
}


def excess(counts, expected):
    """Chi-square in standard deviations above its mean; cells of little mass are put together."""
    counts, expected = np.asarray(counts, float).ravel(), np.asarray(expected, float).ravel()
    assert counts.sum() == pytest.approx(expected.sum())
    assert counts[expected == 0].sum() == 0
    small = expected < 5
    counts = np.append(counts[~small], counts[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    degrees = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees)


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("name", DRAFTS)
def test_each_id_is_distributed_as_the_model_has_it(name):
    """50,000 ids in one text: how often each follows each, against the table."""
    draft, count = Reader(MarkovModel(DRAFTS[name])), 50_000 if name == "near" else 10_000
    got = speculate(Reader(MarkovModel(TABLE)), [0], Sampler(), new_generator(3), draft=draft,
                    ahead=4, max_tokens=count)  # fmt: skip
    text = np.array([0, *got])
    follows = np.zeros((5, 5))
    np.add.at(follows, (text[:-1], text[1:]), 1)
    assert follows.sum() == count
    for row, right in zip(follows, softmax(TABLE)):
        assert excess(row, right * row.sum()) < 4
    if name == "near":  # the test would see 0.2 nats
        assert excess(follows, softmax(TABLE + 0.2 * (TABLE > 1)) * follows.sum(1)[:, None]) > 6
    share = got.accepted / got.drafted
    assert share == 1 if name == "same" else 0.005 < share < 0.9


SETTINGS = {
    "narrow": (Sampler(1.4, top_k=4, top_p=0.93), False),
    "penalties": (Sampler(0.8, repetition_penalty=1.6, frequency_penalty=0.8), False),
    "constraint": (Sampler(presence_penalty=1.1), True),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_whole_texts_are_distributed_as_the_model_has_them(name):
    """Exact probabilities of every text of three ids, under one sampler and constraint."""
    sampler, constrained = SETTINGS[name]
    count, start, exact = 6_000, [0, 2], {}

    def state(text=()):
        return Alternating(3, 5, text) if constrained else None

    for text in itertools.product(range(5), repeat=3):
        probability, last = 1.0, start[-1]
        for place, id in enumerate(text):
            mask = state(text[:place]).allowed(3 - place) if constrained else None
            row = np.float32(TABLE[last])
            probability *= sampler.probabilities(row, Seen(start, text[:place]), mask)[id]
            last = id
            if constrained and not probability:
                break
        exact[text] = probability
    assert sum(exact.values()) == pytest.approx(1)
    model, draft = Reader(MarkovModel(TABLE)), Reader(MarkovModel(DRAFT))
    generator, counts = new_generator(7), dict.fromkeys(exact, 0)
    for _ in range(count):
        text = speculate(model, start, sampler, generator, draft=draft, ahead=4, max_tokens=3,
                         allowed=state())  # fmt: skip
        counts[tuple(text)] += 1
    assert excess(list(counts.values()), count * np.array(list(exact.values()))) < 4


# --- lookup ---


def proposed(text, count, longest=3, ends=()):
    return LookupDraft(longest, ends).propose(text, count, Seen(), None, 99).ids


def test_what_lookup_proposes():
    assert proposed([1, 2, 3], 4) == []
    assert proposed([1, 2, 3, 4, 2], 4) == [3, 4, 2, 3]  # the copy goes on with itself
    assert proposed([7, 7], 3) == [7, 7, 7]
    assert proposed([1, 2, 5, 9, 2, 6, 1, 2], 1) == [5]  # the longest match ...
    assert proposed([1, 2, 5, 9, 2, 6, 1, 2], 1, longest=1) == [6]  # ... then the last
    assert proposed([1, 2, 5, 8, 4, 1, 2], 4, ends={8}) == [5, 8]
    assert proposed([1, 2, 1], 0) == []


def test_a_text_that_repeats_itself_is_read_many_ids_at_once():
    cycle = MarkovModel(log(*np.eye(6)[[1, 2, 3, 4, 5, 0]] * 0.9 + 0.1 / 6))
    got, ids = run(cycle, [0], 60, lookup=2, ahead=8, adaptive=False)
    assert ids == [(place + 1) % 6 for place in range(60)]
    assert got.drafted == got.accepted and got.readings == 6 + math.ceil((60 - 6) / 9)


# --- what is refused ---


def letters(tokens, *special):
    return CharTokenizer(list(tokens), {name: tokens.index(name) for name in special})


def test_a_draft_of_another_vocabulary_is_refused():
    model = letters(["a", "b", "<end>"], "<end>")
    require_same_vocabulary(model, letters(["a", "b", "<end>"], "<end>"))
    other = letters(["a", "b", "<pad>", "<end>"], "<end>", "<pad>")
    for draft, message in (
        (letters(["b", "a", "<end>"], "<end>"), "draft: id 0 is 'b' to it and 'a' to the model"),
        (letters(["a", "b", "<eos>"], "<eos>"), "draft: id 2 is '<eos>' to it and '<end>' to"),
        (letters(["a", "b"]), "draft: its vocabulary has 2 tokens and the model's 3"),
        (other, "draft: id 2 is '<pad>' to it and '<end>' to the model"),
    ):
        with pytest.raises(ValueError, match=message):
            require_same_vocabulary(model, draft)


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "speculate: neither of draft and lookup given, one of them"),
        ({"draft": 0, "lookup": 2}, "speculate: both of draft and lookup given"),
        ({"lookup": -1}, "lookup: -1, 0 or more"),
        ({"lookup": 2, "ahead": 0}, "ahead: 0, 1 or more is needed"),
        ({"lookup": 2, "max_tokens": -1}, "max-tokens: -1, 0 or more"),
        ({"lookup": 2, "allowed": 0}, "a constraint without max_tokens"),
        ({"draft": 2}, "draft: its 9 ids, at least 13 as of the model are needed"),
        ({"draft": 1}, r"draft: encoder-decoder from \[2\], decoder from \[\] as the model"),
    ],
)
def test_what_cannot_be_done_is_refused(options, message):
    drafts = [small_gpt2.small(), small_t5.small(), small_gpt2.small(vocab_size=9)]
    if "draft" in options:
        options = options | {"draft": Reader(drafts[options["draft"]])}
    with pytest.raises(ValueError, match=message):
        speculate(Reader(small_gpt2.small()), [1], GREEDY, new_generator(0), **options)


def test_a_check_reads_fewer_rows_than_other_kernels_take(monkeypatch):
    """Up to them a row has the bits it has alone, so that a long draft changes nothing."""
    model, sizes = small_gpt2.small(n_positions=200), []
    original = Reader.read

    def read(self, batch, **options):
        sizes.extend(len(ids) for _, ids in batch)
        return original(self, batch, **options)

    monkeypatch.setattr(Reader, "read", read)
    options = {"lookup": 1, "ahead": 90, "max_tokens": 150, "ends": frozenset()}
    list(speculate(Reader(model), [1, 2, 1, 2], GREEDY, new_generator(0), **options))
    assert max(sizes[1:]) == min(90 + 1, MANY_ROWS - 1)
