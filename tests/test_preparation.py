"""From raw files to a folder that trains: the same whatever happens on the way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minillm.data import Prepared, TokenShards, Windows
from minillm.data.preparation import encoding, job, sections, writing
from minillm.data.preparation.parts import Cleaning
from minillm.data.preparation.pool import in_order
from minillm.data.tokens import TokenFile
from minillm.formats.lock import Lock
from minillm.tokenizers import train
from small_runs import flags, limited, minillm
from small_texts import BYTES, documents_of, files_of, prepared, records, sentences


def small_parts(monkeypatch, section=400, part=1500):
    """Sections, parts and units so small that little text has many."""
    monkeypatch.setattr(sections, "SECTION_CHARACTERS", section)
    monkeypatch.setattr(sections, "PART_CHARACTERS", part)
    monkeypatch.setattr(encoding, "PART_CHARACTERS", part)
    monkeypatch.setattr(writing, "BLOCK", 97)


def test_all_documents_are_there_once_and_in_order(tmp_path, monkeypatch):
    small_parts(monkeypatch)
    texts = [sentences(i) for i in range(40)]
    source = records(tmp_path / "a.jsonl", texts)
    out = prepared(source, tmp_path / "out", val_fraction=0.2)
    data = out.dataset(BYTES)
    train_texts, val_texts = documents_of(data.train), documents_of(data.val)
    assert sorted(train_texts + val_texts) == sorted(texts)
    assert [t for t in texts if t in train_texts] == train_texts
    assert [t for t in texts if t in val_texts] == val_texts
    assert 0.1 < len(data.val) / (len(data.val) + len(data.train)) < 0.3
    assert (data.facts.split, data.facts.train_documents) == ("groups", len(train_texts))


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_a_long_document_has_the_ids_of_its_text_read_whole(tmp_path, monkeypatch, kind):
    small_parts(monkeypatch)
    text = "".join(sentences(i, 4) + "\n" * (i % 4) + " " * (i % 3) for i in range(60))
    text += "ab" * 900 + "  x\n\n" + "été 日本語 🙂 " * 80 + "naïve's end"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    tokenizer = train(kind, [text], vocab_size={"bpe": 400}.get(kind))
    out = prepared(tmp_path / "a.txt", tmp_path / "out", tokenizer=tokenizer, val_fraction=0)
    data = out.dataset(tokenizer)
    ids = data.train.rows(np.zeros(1, int), len(data.train))[0]
    assert ids.tolist() == [*tokenizer.encode(text), tokenizer.eos_id]


def test_a_long_document_is_encoded_in_several_units(tmp_path, monkeypatch):
    small_parts(monkeypatch)
    (tmp_path / "a.txt").write_text("".join(sentences(i) for i in range(20)), encoding="utf-8")
    written = []
    make = encoding.TokenWriter
    monkeypatch.setattr(
        encoding, "TokenWriter", lambda path, *rest: written.append(path) or make(path, *rest)
    )
    prepared(tmp_path / "a.txt", tmp_path / "out")
    assert len(written) > 5


def test_the_result_does_not_depend_on_the_number_of_workers(tmp_path, monkeypatch):
    small_parts(monkeypatch)
    texts = [sentences(i % 45) for i in range(60)] + ["mail me@example.org now", "", "a\x07b"]
    source = records(tmp_path / "a.jsonl", texts)
    wanted = {"dedup": "near", "scrub_pii": True, "min_quality": 0.2, "shard_tokens": 5000}
    for workers in (1, 2, 3):
        prepared(source, tmp_path / f"out{workers}", workers=workers, **wanted)
    assert files_of(tmp_path / "out1") == files_of(tmp_path / "out2") == files_of(tmp_path / "out3")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from small_texts import prepared
from minillm.data.preparation import encoding, sections
sections.PART_CHARACTERS = encoding.PART_CHARACTERS = 1500
left = int(sys.argv[1])
replace = os.replace
def counted(*names):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
os.replace = counted
prepared(sys.argv[2], Path(sys.argv[3]), dedup="near", shard_tokens=4000)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX")
def test_killed_before_any_file_it_goes_on_to_the_same_bytes(tmp_path):
    """Each run is killed at a later file than the one before, all in one folder."""
    source = records(tmp_path / "a.jsonl", [sentences(i % 12) for i in range(25)])
    here = str(Path(__file__).parent)

    def run(kill_at: int, out: Path) -> int:
        words = [sys.executable, "-c", KILLED, str(kill_at), str(source), str(out), here]
        return subprocess.run(words, check=False).returncode

    assert run(0, tmp_path / "whole") == 0
    kills = 0
    for at in (1, 2, 3, 5, 5, 5, 5, 5, 4, 3, 2, 6, 7, 8, 9):
        code = run(at, tmp_path / "cut")
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills >= 6
    assert run(0, tmp_path / "cut") == 0
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert not (tmp_path / "cut/work").exists()


def test_what_was_done_is_not_done_again(tmp_path, monkeypatch):
    small_parts(monkeypatch)
    source = records(tmp_path / "a.jsonl", [sentences(i) for i in range(30)])

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("minillm.data.preparation.job.units", stop)
        prepared(source, tmp_path / "out")
    monkeypatch.setattr("minillm.data.preparation.parts.clean", stop)
    prepared(source, tmp_path / "out")


def test_a_text_that_changed_is_not_gone_on_with(tmp_path, monkeypatch):
    small_parts(monkeypatch)
    source = records(tmp_path / "a.jsonl", [sentences(i) for i in range(30)])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            "minillm.data.preparation.job.units",
            lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        prepared(source, tmp_path / "out")
    changed = source.read_bytes().replace(b"river", b"xiver", 1)
    source.write_bytes(changed)
    with pytest.raises(RuntimeError, match=r"prepare: the text is not what it was .* \(part 0\)"):
        prepared(source, tmp_path / "out")
    source.write_bytes(changed + changed)
    with pytest.raises(ValueError, match=r"prepare: .*out was begun with other files"):
        prepared(source, tmp_path / "out")


def test_a_folder_of_something_else_is_refused(tmp_path):
    source = records(tmp_path / "a.jsonl", [sentences(i) for i in range(30)])
    out = tmp_path / "out"
    first = prepared(source, out)
    assert prepared(source, out).content == first.content  # whole already
    later = (out / "prepared.json").stat().st_mtime_ns + 10**9
    os.utime(source, ns=(later, later))
    with pytest.raises(ValueError, match=r"a\.jsonl was written after .*out was prepared from it"):
        prepared(source, out)
    with pytest.raises(ValueError, match="holds prepared data of another command"):
        prepared(source, out, dedup="near")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.doc").write_text("x")
    with pytest.raises(ValueError, match="holds something else, a new folder is needed"):
        prepared(source, other)


def dies(task):
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX")
def test_a_killed_worker_is_one_line():
    with pytest.raises(RuntimeError, match=r"prepare: a worker was killed"):
        list(in_order(dies, range(20), 2))


class Dying(Cleaning):
    """Work whose process is killed in the fourth part, as by the system for lack of memory."""

    def __call__(self, part):
        if part.number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        super().__call__(part)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX")
def test_a_preparation_goes_on_after_a_killed_worker(tmp_path, monkeypatch, capsys):
    small_parts(monkeypatch)
    records(tmp_path / "a.jsonl", [sentences(i % 25) for i in range(30)])
    monkeypatch.chdir(tmp_path)
    words = ("data", "prepare", "a.jsonl", "--dedup", "near", "--tokenizer", "byte")
    assert minillm(*words, "--out", "whole", "--workers", 1) == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(job, "Cleaning", Dying)
        assert minillm(*words, "--out", "cut", "--workers", 2) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "prepare: a worker was killed" in said
    assert (tmp_path / "cut/work").is_dir()
    assert minillm(*words, "--out", "cut", "--workers", 2) == 0
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot limit the size of files")
def test_a_preparation_goes_on_after_a_full_disk(tmp_path, monkeypatch):
    records(tmp_path / "a.jsonl", [sentences(i) for i in range(60)])
    monkeypatch.chdir(tmp_path)
    words = ("data", "prepare", "a.jsonl", "--tokenizer", "byte", "--workers")
    assert minillm(*words, 1, "--out", "whole") == 0
    for size, workers in ((1000, 1), (1000, 2), (20_000, 1), (60_000, 2)):
        done = limited(size, *words, workers, "--out", "cut")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].endswith(
            "file too large; what was done is kept in cut, the same command goes on"
        )
        assert "Traceback" not in done.stderr
        assert not list((tmp_path / "cut").rglob("*.tmp"))
    assert minillm(*words, 2, "--out", "cut") == 0
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


ORPHANS = """
import sys, threading
from minillm.data.preparation.pool import in_order
def block(task):
    print("begun", flush=True)
    threading.Event().wait()
if __name__ == "__main__":
    list(in_order(block, range(2), 2))
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX")
def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "orphans.py")], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout.readline() == b"begun\n"
        assert parent.stdout.readline() == b"begun\n"
        parent.kill()
        assert parent.stdout.read() == b""  # ends when the last writer has ended


def test_shards_are_read_as_one_sequence(tmp_path):
    source = records(tmp_path / "a.jsonl", [sentences(i) for i in range(30)])
    one = prepared(source, tmp_path / "one").dataset(BYTES)
    many = prepared(source, tmp_path / "many", shard_tokens=777).dataset(BYTES)
    assert isinstance(many.train, TokenShards)
    assert len(many.train.files) == -(-len(one.train) // 777) > 10
    assert {len(file) for file in many.train.files[:-1]} == {777}
    for start in (0, 5000):
        for got, wanted in zip(
            Windows(many.train, 50, seed=3).batch(start, 64),
            Windows(one.train, 50, seed=3).batch(start, 64),
        ):
            assert (got == wanted).all()
    with pytest.raises(IndexError, match="tokens: ids"):
        many.train.rows(np.array([len(many.train) - 3]), 4)


def test_a_damaged_shard_is_found(tmp_path):
    source = records(tmp_path / "a.jsonl", [sentences(i) for i in range(30)])
    prepared(source, tmp_path / "out", shard_tokens=2000)
    path = tmp_path / "out/train-00001.bin"
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"tokens: .*train-00001.bin is damaged"):
        Prepared.open(tmp_path / "out").dataset(BYTES)


@pytest.mark.parametrize("words", [(), ("--tokenizer", "char")], ids=["chosen", "char"])
def test_characters_that_are_held_out_alone_have_ids(tmp_path, words):
    texts = [sentences(i) + chr(0x4E00 + i) for i in range(40)]  # each has one of its own
    source = records(tmp_path / "a.jsonl", texts)
    assert minillm("data", "prepare", source, "--out", tmp_path / "out", *words) == 0
    prepared = Prepared.open(tmp_path / "out")
    found = documents_of(prepared.dataset(prepared.tokenizer).val, prepared.tokenizer)
    assert found and set(found) < set(texts)


def test_training_takes_the_folder_as_it_takes_text(tmp_path, monkeypatch, capsys):
    """The same weights as from a token file of the same ids, also after a stop."""
    monkeypatch.chdir(tmp_path)
    source = records(tmp_path / "a.jsonl", [sentences(i) for i in range(40)])
    options = flags(tokenizer=None, threads=1)
    assert minillm("data", "prepare", source, "--out", "data", "--tokenizer", "char",
                   "--shard-tokens", 1000, "--workers", 1) == 0  # fmt: skip
    assert minillm("train", "data", "--out", "cut", "--stop-after", 5, *options) == 0
    assert minillm("train", "--resume", "cut") == 0
    assert minillm("train", "data", "--out", "through", *options) == 0
    weights = (tmp_path / "through/model.safetensors").read_bytes()
    assert (tmp_path / "cut/model.safetensors").read_bytes() == weights
    assert minillm("generate", "cut", "--prompt", "river", "--max-tokens", 4) == 0
    assert minillm("train", source, "--out", "text", *flags(threads=1)) == 0
    whole = TokenFile.open(tmp_path / "text/training/train.bin")
    shards = Prepared.open(tmp_path / "data").dataset(Prepared.open(tmp_path / "data").tokenizer)
    assert (shards.train.rows(np.zeros(1, int), len(shards.train))[0] == whole.ids).all()
    assert (tmp_path / "text/model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    "words, said",
    [
        (["--vocab-size", "300"], "vocab-size: data was prepared already, which settled it"),
        (["--val-fraction", "0.3"], "val-fraction: data was prepared already"),
        (["--context", "100000"], "a context of 100000 needs at least 100001"),
    ],
)
def test_what_the_preparation_settled_is_refused(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    prepared(records(tmp_path / "a.jsonl", [sentences(i) for i in range(30)]), tmp_path / "data")
    assert (
        minillm("train", "data", "--out", "run", *flags(tokenizer=None, context=None), *words) == 2
    )
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert minillm("train", "data", "a.jsonl", "--out", "run") == 2
    assert "data holds prepared data and 1 more name is given" in capsys.readouterr().err
    for content in ('{"version": 1}', '{"version": 1, "text": {"words": 1}}'):
        (tmp_path / "data/prepared.json").write_text(content, encoding="utf-8")
        assert minillm("train", "data", "--out", "run") == 2
        assert "data/prepared.json is damaged (" in capsys.readouterr().err


def test_the_end_of_few_documents_may_be_like_their_beginning(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(sentences(1), encoding="utf-8")
    out = prepared([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "out")
    assert out.dataset(BYTES).facts.lines_for_people()[-1] == (
        "overlap: not measured; what is equal or alike may be on both sides"
    )


def test_two_processes_do_not_prepare_in_one_folder(tmp_path):
    source = records(tmp_path / "a.jsonl", [sentences(i) for i in range(30)])
    (tmp_path / "out/work").mkdir(parents=True)
    with (
        Lock(tmp_path / "out/work", "taken"),
        pytest.raises(RuntimeError, match="prepare: another process works in"),
    ):
        prepared(source, tmp_path / "out")
    prepared(source, tmp_path / "out")


def test_a_parquet_file_packed_and_plain_text_are_prepared_alike(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    zstandard = pytest.importorskip("zstandard")
    texts = [sentences(i) for i in range(30)]
    plain = records(tmp_path / "a.jsonl", texts)
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    packed = zstandard.ZstdCompressor().compress(plain.read_bytes())
    (tmp_path / "b.jsonl.zst").write_bytes(packed)
    wanted = prepared(plain, tmp_path / "plain").dataset(BYTES).fingerprint
    for name in ("a.parquet", "b.jsonl.zst"):
        out = prepared(tmp_path / name, tmp_path / name.replace(".", "-"), workers=2)
        assert out.dataset(BYTES).fingerprint == wanted
