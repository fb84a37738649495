"""One answer, whatever the way: cached, not cached, in chunks, with strangers, forked, slid."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

import small_gpt2
import small_llama
import small_t5
import small_transformer
from minillm import kernels, no_grad
from minillm.arrays import new_generator
from minillm.generation import Engine, Options, Reader, Sampler, generate_ids
from minillm.generation.encoder_decoder import generate_ids as padded_ids
from minillm.tokenizers import CharTokenizer
from small_runs import environment

ENDLESS = {"eos_token_id": None}
FAMILIES = {
    "gpt2": lambda: small_gpt2.small(n_positions=60),
    "llama": lambda: small_llama.small("llama", **ENDLESS),
    "mistral, window 7": lambda: small_llama.small("mistral", **ENDLESS),
    "qwen2, window 6": lambda: small_llama.small("qwen2, window", **ENDLESS),
    "qwen3": lambda: small_llama.small("qwen3", **ENDLESS),
    "t5": lambda: small_t5.small(**ENDLESS),
    "transformer": lambda: small_transformer.small(**ENDLESS),
}
SHORT, LONG, STRANGER = [3, 1, 7], [2, 9, 4, 11, 0, 6, 5], [8, 8, 1, 10, 3]
SOURCE = [2, 9, 11, 4, 0, 6]
TOKENS = 20
SAMPLED = {"temperature": 1.7, "seed": 7}


@pytest.fixture(params=FAMILIES)
def model(request):
    return FAMILIES[request.param]()


def size(model):
    return getattr(model.config, "target_size", model.config.vocab_size)


def tokenizer(model):
    return CharTokenizer([chr(ord("a") + place) for place in range(size(model))], {})


def decodes(model):
    return model.config.kind == "encoder-decoder"


def naive(model, prompt, options, count=TOKENS):
    """(ids, logits) by one call of the whole model for each token."""
    sampler, generator = options.sampler, new_generator(options.seed)
    ids = [model.config.decoder_start_token_id] if decodes(model) else list(prompt)
    out, rows = [], []
    for _ in range(count):
        with no_grad():
            inputs = (np.array([prompt]), np.array([ids])) if decodes(model) else [np.array([ids])]
            rows.append(model(*inputs).numpy()[0, -1])
        out.append(sampler.pick(rows[-1], generator))
        ids = [*ids, out[-1]]
    return out, rows


def written(model, prompts, options, **engine):
    """Ids and log-probabilities of all tokens at each place, for each prompt."""
    given = {"max_tokens": TOKENS, "logprobs": size(model)} | options
    texts = Engine(model, tokenizer(model), **engine).complete(prompts, Options(**given))
    return [(text.ids, [dict(entry.top) for entry in text.logprobs]) for text in texts]


def assert_near(tops, rows):
    for top, logits in zip(tops, rows, strict=True):
        wide = logits.astype(float)
        expected = wide - np.log(np.exp(wide).sum())
        got = np.array([top[id] for id in range(len(wide))])
        np.testing.assert_allclose(got, expected, atol=1e-5 * max(1, np.abs(wide).max()))


@pytest.mark.parametrize("options", [{"temperature": 0}, SAMPLED], ids=["greedy", "sampled"])
class TestOneAnswer:
    def test_cached_or_not_in_chunks_or_whole_is_the_model_itself(self, model, options):
        for prompt in (SHORT, LONG):
            ids, rows = naive(model, prompt, Options(**options))
            for chunk in (1, 2, 256):
                for use_cache in (True, False):
                    ((got, tops),) = written(
                        model, [prompt], options | {"use_cache": use_cache}, chunk=chunk
                    )
                    assert got == ids
                    assert_near(tops, rows)

    def test_with_strangers_that_join_and_leave_it_has_the_same_bits(self, model, options):
        for chunk in (2, 256):
            alone = [written(model, [p], options, chunk=chunk)[0] for p in (SHORT, LONG)]
            together = written(model, [SHORT, LONG, STRANGER], options, chunk=chunk)
            assert together[:2] == alone
            engine = Engine(model, tokenizer(model), max_batch=3, chunk=chunk)
            asked = Options(max_tokens=TOKENS, logprobs=size(model), **options)
            brief = Options(max_tokens=3, temperature=3.0)
            found, steps = {}, 0
            tickets = {}
            while steps == 0 or not engine.idle:
                if steps < 12:
                    engine.submit(STRANGER, brief)
                if steps in (3, 6):
                    tickets[engine.submit([SHORT, LONG][steps // 6], asked)] = steps // 6
                for piece in engine.step():
                    found.setdefault(piece.ticket, []).append((piece.id, piece.top))
                steps += 1
            for ticket, place in tickets.items():
                ids, tops = zip(*found[ticket])
                assert (list(ids), list(map(dict, tops))) == alone[place]

    def test_ids_from_the_generator_are_those_of_the_engine(self, model, options):
        asked = Options(**options)
        for prompt in (SHORT, LONG):
            source = prompt if decodes(model) else None
            ids = generate_ids(
                model,
                [] if decodes(model) else prompt,
                asked.sampler,
                new_generator(asked.seed),
                source=source,
            )
            ((got, _),) = written(model, [prompt], options)
            assert list(itertools.islice(ids, TOKENS)) == got

    def test_the_number_of_threads_changes_no_bit(self, model, options):
        before, found = kernels.threads(), []
        try:
            for threads in (1, 2):
                kernels.set_threads(threads)
                found.append(written(model, [SHORT, LONG], options))
        finally:
            kernels.set_threads(before)
        assert found[0] == found[1]

    def test_the_reference_path_gives_the_same_tokens(self, model, options):
        with kernels.use("reference"):
            plain = written(model, [LONG], options)
        assert plain[0][0] == written(model, [LONG], options)[0][0]


@pytest.mark.parametrize("ahead", [1, 4])
def test_speculation_writes_the_same_tokens(model, ahead):
    for prompt in (SHORT, LONG):
        ids, _ = naive(model, prompt, Options(temperature=0))
        for given in ({"lookup": 2}, {"draft": model}, {"draft": other_of(model)}):
            options = Options(temperature=0, max_tokens=TOKENS, ahead=ahead, **given)
            (text,) = Engine(model, tokenizer(model)).complete([prompt], options)
            assert text.ids == ids


def other_of(model):
    """The same kind with other weights, a draft that is often wrong."""
    twin = type(model)(model.config).eval()
    with no_grad():
        for own, theirs in zip(twin.parameters(), model.parameters()):
            own.copy_(theirs.data + 0.1 * np.cos(np.arange(theirs.size)).reshape(theirs.shape))
    return twin


def test_after_a_rewind_or_in_a_fork_a_text_has_the_same_bits(model):
    reader = Reader(model)

    def begun():
        text = reader.begin(SOURCE if decodes(model) else None)
        reader.read([(text, LONG)])
        return text

    def tail(text):
        return [reader.read([(text, [id])])[0] for id in STRANGER]

    straight = tail(begun())
    text = begun()
    fork = text.fork()
    reader.read([(text, [1])]), reader.read([(text, [2])])
    text.rewind(len(LONG))
    for other in (text, fork, fork.fork() if fork.rewind(len(LONG)) is None else None):
        assert all(map(np.array_equal, straight, tail(other)))


@pytest.mark.parametrize("family", ["t5", "transformer"])
def test_padding_around_a_source_changes_no_token(family):
    """Decoders know no padding: a text has keys of its own, however long the others are."""
    model, width = FAMILIES[family](), 9
    right = [written(model, [source], {"temperature": 0})[0][0] for source in (SHORT, LONG)]
    for before in (0, 1, width):  # padding in front, as far as there is room
        ids, mask = np.full((2, width), 5), np.zeros((2, width), int)
        for row, source in enumerate((SHORT, LONG)):
            begin = min(before, width - len(source))
            place = slice(begin, begin + len(source))
            ids[row, place], mask[row, place] = source, 1
        for use_cache in (True, False):
            got = padded_ids(model, ids, mask=mask, max_tokens=TOKENS, use_cache=use_cache)
            assert got == right


def test_slid_is_the_model_itself(model):
    if decodes(model):
        pytest.skip("a target has no end of context here")
    context = model.config.context
    window, expected, generator = list(SHORT), [], new_generator(3)
    sampler = Sampler(1.5)
    for _ in range(context + 12):
        if len(window) > context:
            window = window[-(context // 2) :]
        with no_grad():
            logits = model(np.array([window])).numpy()[0, -1]
        expected.append(sampler.pick(logits, generator))
        window.append(expected[-1])
    options = Options(temperature=1.5, seed=3, max_tokens=context + 12, overflow="slide")
    for chunk in (3, 256):
        (text,) = Engine(model, tokenizer(model), chunk=chunk).complete([SHORT], options)
        assert text.ids == expected
        assert len(text.notices) == 1


def test_in_another_process_and_on_the_command_line_it_is_the_same_text(tmp_path):
    from minillm.generation import complete
    from minillm.models.folder import load, save_model

    model = FAMILIES["llama"]()
    save_model(tmp_path, model, tokenizer(model))
    model, letters = load(tmp_path)
    texts = complete(model, letters, ["abc", "hgfedcba"], max_tokens=20, **SAMPLED)
    for prompt, text in zip(("abc", "hgfedcba"), texts):
        for threads in ("1", "2"):
            done = subprocess.run(
                [sys.executable, "-m", "minillm", "generate", tmp_path, "--prompt", prompt,
                 "--max-tokens", "20", "--temperature", "1.7", "--seed", "7",
                 "--threads", threads],
                capture_output=True, text=True, encoding="utf-8", env=environment(), check=True,
            )  # fmt: skip
            assert done.stdout == f"{text.text}\n"
