"""Which files a corpus is made of, and what is said of those that cannot be one."""

import contextlib
import gc
import gzip
import io
import os
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from minillm.data import read
from minillm.data.sources import Spool, find, shown


def written(path: Path, content: str | bytes = "some text here\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def names(folder: Path, found) -> list[str]:
    return [source.path.relative_to(folder).as_posix() for source in found.files]


def text_of(corpus) -> list[str]:
    return ["".join(document.pieces()) for document in corpus.documents()]


def test_folder_is_searched_to_the_bottom_in_order_of_names(tmp_path):
    for name in ("b.txt", "a/z.md", "a/B.TXT", "c.jsonl.gz", "a/b/deep.txt.gz", "Z.jsonl"):
        written(tmp_path / name)
    for name in (".hidden.txt", ".git/x.txt", "image.png", "a/noname"):
        written(tmp_path / name)
    found = find(tmp_path)
    assert names(tmp_path, found) == [
        "Z.jsonl",
        "a/B.TXT",
        "a/b/deep.txt.gz",
        "a/z.md",
        "b.txt",
        "c.jsonl.gz",
    ]
    assert (found.hidden, found.other_kinds, found.repeated) == (2, 2, 0)


def test_links_back_up_are_passed_over_and_counted(tmp_path):
    written(tmp_path / "a" / "x.txt")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self.txt").symlink_to("self.txt")
    (tmp_path / "a" / "gone.txt").symlink_to("nowhere.txt")
    found = find(tmp_path)
    assert names(tmp_path, found) == ["a/x.txt"]
    assert (found.loops, found.broken_links) == (1, 2)
    with pytest.raises(OSError, match=r"read: .*self\.txt: .*links, a file or folder is needed"):
        find(tmp_path / "a" / "self.txt")


def test_a_file_reached_twice_is_read_once_and_counted(tmp_path):
    one = written(tmp_path / "d" / "one.txt", "alpha\n")
    written(tmp_path / "d" / "two.txt", "beta\n")
    (tmp_path / "d" / "three.txt").symlink_to(one)
    (tmp_path / "again").symlink_to(tmp_path / "d")
    corpus = read([one, tmp_path / "d", one, tmp_path / "again"])
    assert text_of(corpus) == ["alpha\n", "beta\n"]
    assert corpus.facts.sources.repeated == 4
    assert "counted once: 4 paths to what was already read" in corpus.facts.lines_for_people()


def test_equal_files_are_two_files(tmp_path):
    corpus = read([written(tmp_path / "a.txt"), written(tmp_path / "b.txt")])
    assert corpus.facts.documents == 2


def test_missing_empty_and_textless_inputs_are_one_line_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    written(tmp_path / "pictures" / "a.png")
    with pytest.raises(FileNotFoundError, match=r"^read: \S*gone\.txt: No such file[^\n]*$"):
        read(tmp_path / "gone.txt")
    for folder in ("empty", "pictures"):
        with pytest.raises(ValueError, match=f"{folder} is a folder without text, at least one"):
            read(tmp_path / folder)
    with pytest.raises(ValueError, match="no input named"):
        read([])


@pytest.mark.parametrize("content", [b"", b"a", b"\xef\xbb\xbfa"])
def test_less_than_two_characters_are_refused(tmp_path, content):
    path = written(tmp_path / "a.txt", content)
    with pytest.raises(ValueError, match=r"a\.txt holds [01] characters?, at least 2 are needed"):
        read(path)


@pytest.mark.parametrize(
    "content, place",
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", "byte 0x00 at offset 8"),
        (b"text " * 100_000 + b"\x00", "byte 0x00 at offset 500000"),
        (b"ab" + bytes(range(1, 32)) * 20, "byte 0x01 at offset 2"),
    ],
)
def test_binary_files_are_refused_with_the_place(tmp_path, content, place):
    path = written(tmp_path / "a.txt", content)
    with pytest.raises(ValueError, match=rf"^read: \S*a\.txt is binary: {place}, a text file"):
        read(path)
    with pytest.raises(ValueError, match="is binary"):
        read(path, errors="replace")


def test_escape_sequences_and_a_few_controls_are_text(tmp_path):
    content = "\x1b[31mred\x1b[0m\n" * 50 + "bell \x07 here, and \x0c a new page\n"
    corpus = read(written(tmp_path / "a.log", content))
    assert text_of(corpus) == [content]
    assert corpus.facts.control_characters == 102


def test_a_named_file_of_any_name_is_text_or_records_by_its_first_line(tmp_path):
    plain = written(tmp_path / "notes.dat", "{not json}\n")
    lines = written(tmp_path / "lines.ndjson", '{"text": "one"}\n{"text": "two"}\n')
    other = written(tmp_path / "config.json", '{"name": "x"}\n')
    corpus = read([plain, lines, other])
    assert text_of(corpus) == ["{not json}\n", "one", "two", '{"name": "x"}\n']
    assert f"read as JSON lines: {lines}" in corpus.facts.lines_for_people()


def test_gzip_is_unpacked_and_its_damage_named(tmp_path):
    content = "".join(f"line {i} of the text\n" for i in range(50_000))
    path = written(tmp_path / "a.txt.gz", content)
    assert text_of(read(path)) == [content]
    whole = path.read_bytes()
    path.write_bytes(whole + whole)
    assert read(path).facts.characters == 2 * len(content)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"^read: \S*a\.txt\.gz is damaged gzip \([^\n]+needed$"):
        read(path)
    path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 0xFF]) + whole[5001:])
    with pytest.raises(ValueError, match=r"^read: \S*a\.txt\.gz is damaged gzip|is not utf-8"):
        read(path)
    path.write_bytes(whole[:-8] + b"\0\0\0\0" + whole[-4:])
    with pytest.raises(ValueError, match="is damaged gzip"):
        read(path)
    path.write_bytes(content.encode("utf-8"))
    with pytest.raises(ValueError, match=r"a\.txt\.gz is not gzip, .* 0x1F 0x8B is needed"):
        read(path)


def test_gzip_without_the_name_is_unpacked_too(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(gzip.compress(b"hello\n"))
    assert text_of(read(path)) == ["hello\n"]


@pytest.mark.parametrize("packed", [False, True])
def test_standard_input_is_read_as_often_as_needed(tmp_path, monkeypatch, packed):
    data = b'{"text": "caf\xc3\xa9"}\n{"text": "b"}\n'
    path = tmp_path / "in"
    path.write_bytes(gzip.compress(data) if packed else data)
    with open(path, "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file, encoding="ascii"))
        corpus = read(["-", "-"])
    spool = corpus.facts.sources.files[0].path
    assert text_of(corpus) == text_of(corpus) == ["café", "b"]
    assert corpus.facts.sources.repeated == 1
    assert corpus.facts.lines_for_people()[1] == "read as JSON lines: standard input"
    assert spool.exists()
    del corpus
    assert not spool.exists()


def test_an_interrupt_as_the_copy_of_standard_input_appears_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    os_open = os.open

    def interrupted(path, *rest):
        os.close(os_open(path, *rest))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", interrupted)
    with contextlib.suppress(KeyboardInterrupt):
        Spool(io.BytesIO(b"some text here"))
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_copied_and_read_as_often_as_needed(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"from a pipe\n",))
    writer.start()
    corpus = read(pipe)
    writer.join()
    assert text_of(corpus) == text_of(corpus) == ["from a pipe\n"]


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no device files on this system")
def test_a_device_is_refused():
    with pytest.raises(ValueError, match="/dev/zero is a device or socket"):
        read("/dev/zero")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user may read every file")
def test_an_unreadable_file_is_a_one_line_error(tmp_path):
    path = written(tmp_path / "a.txt")
    path.chmod(0)
    with pytest.raises(PermissionError, match=r"^read: \S*a\.txt: Permission denied, a readable"):
        read(path)


def test_names_are_shown_on_one_line():
    assert shown("a\nb\té\udcff.txt") == "a\\nb\\té\\udcff.txt"


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(ValueError, match=r"^read: an empty name, that of a file or folder is"):
        find([""])
