"""Weights in several files: an index that is believed only where its shards agree."""

import json
import shutil

import numpy as np
import pytest

from minillm.formats import safetensors, shards
from minillm.models.folder import load_model, save_model
from small_gpt2 import logits, small

ARRAYS = {f"w{n}": np.full((10, n + 1), n, np.float32) for n in range(6)}


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


def index(folder):
    return json.loads((folder / shards.INDEX).read_text(encoding="utf-8"))


def change_index(folder, change):
    content = index(folder)
    content = change(content) or content
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / shards.INDEX).write_text(text, encoding="utf-8")


@pytest.fixture
def sharded(tmp_path):
    shards.write(tmp_path, ARRAYS, {"k": "v"}, shard_bytes=250)
    return tmp_path


class TestWriting:
    def test_small_weights_are_one_file(self, tmp_path):
        shards.write(tmp_path, ARRAYS, {})
        assert contents(tmp_path) == ["model.safetensors"]

    def test_no_shard_is_larger_than_asked_for_unless_one_array_is(self, sharded):
        names = contents(sharded)
        assert names == [f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)] + [
            shards.INDEX
        ]
        held = [list(safetensors.read(sharded / name)[0]) for name in names[:4]]
        assert held == [["w0", "w1", "w2"], ["w3"], ["w4"], ["w5"]]
        assert index(sharded)["metadata"] == {"total_size": sum(a.nbytes for a in ARRAYS.values())}

    def test_what_is_written_comes_back(self, sharded):
        arrays, metadata, paths = shards.read(sharded)
        assert len(paths) == 4 and metadata["k"] == "v"
        assert arrays.keys() == ARRAYS.keys()
        assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)

    def test_another_division_leaves_nothing_of_the_one_before(self, sharded):
        (sharded / "model-1-of-2.safetensors").write_bytes(b"of somebody else")
        shards.write(sharded, ARRAYS, {}, shard_bytes=400)
        assert len(contents(sharded)) == 3 + 1 + 1
        shards.write(sharded, ARRAYS, {})
        assert contents(sharded) == ["model-1-of-2.safetensors", "model.safetensors"]
        shards.write(sharded, ARRAYS, {}, shard_bytes=400)
        assert "model.safetensors" not in contents(sharded)

    def test_the_size_is_that_in_the_file(self, tmp_path):
        shards.write(tmp_path, ARRAYS, {}, "bf16", shard_bytes=125)
        assert len(contents(tmp_path)) == 5


class TestReading:
    @pytest.mark.parametrize(
        "name",
        ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "a\\b.safetensors",
         "C:x.safetensors", "..", "", ".x.safetensors", shards.INDEX, "x.bin", 3, None, ["x"]],
    )  # fmt: skip
    def test_a_shard_must_be_a_plain_name(self, sharded, name):
        change_index(sharded, lambda content: content["weight_map"].update(w1=name))
        with pytest.raises(ValueError, match=r"index\.json (names the shard|is damaged)"):
            shards.read(sharded)

    @pytest.mark.parametrize(
        "content",
        ["{", "[]", "3", "{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": "x"}',
         '{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}', "[" * 100_000],
    )  # fmt: skip
    def test_an_index_that_is_none(self, sharded, content):
        (sharded / shards.INDEX).write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"index\.json is damaged \(") as error:
            shards.read(sharded)
        assert "\n" not in str(error.value)

    def test_an_index_of_absurd_size_is_not_read(self, sharded):
        with open(sharded / shards.INDEX, "ab") as file:
            file.truncate(1 << 40)
        with pytest.raises(ValueError, match="has more than 16777216 bytes"):
            shards.read(sharded)

    def test_missing_shards_are_named_together(self, sharded):
        for n in (2, 4):
            (sharded / f"model-0000{n}-of-00004.safetensors").unlink()
        with pytest.raises(
            FileNotFoundError,
            match=r"2 of 4 shards are missing in .*: model-00002-of-\d+\.safetensors; model-00004",
        ):
            shards.read(sharded)

    def test_a_shard_that_points_back_to_the_folder_is_missing(self, sharded):
        path = sharded / "model-00002-of-00004.safetensors"
        path.unlink()
        path.symlink_to(path.name)
        with pytest.raises(FileNotFoundError, match="1 of 4 shards are missing"):
            shards.read(sharded)

    def test_a_shard_that_was_cut_is_refused(self, sharded):
        path = sharded / "model-00003-of-00004.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ValueError, match=r"4\.safetensors: not a readable"):
            shards.read(sharded)

    def test_a_shard_that_was_changed_is_refused(self, sharded):
        path = sharded / "model-00003-of-00004.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=r"00003-of-00004\.safetensors: damaged"):
            shards.read(sharded)
        shards.read(sharded, verify=False)

    def test_every_disagreement_is_in_one_error(self, sharded):
        shutil.copy(
            sharded / "model-00004-of-00004.safetensors",
            sharded / "model-00003-of-00004.safetensors",
        )
        change_index(sharded, lambda content: content["weight_map"].pop("w0") and None)
        with pytest.raises(ValueError, match="and its shards do not agree: ") as error:
            shards.read(sharded)
        for part in (
            "w5 is in model-00003-of-00004.safetensors and in model-00004-of-00004.safetensors",
            "w4 is not in model-00003-of-00004.safetensors",
            "w0 is in model-00001-of-00004.safetensors, the index says nothing of it",
        ):
            assert part in str(error.value)

    def test_shards_of_two_saves_are_told_apart(self, sharded, tmp_path_factory):
        """As a save leaves them that was killed on its way."""
        other = tmp_path_factory.mktemp("other")
        shards.write(other, {n: a + 1 for n, a in ARRAYS.items()}, {"k": "w"}, shard_bytes=250)
        shutil.copy(other / "model-00001-of-00004.safetensors", sharded)
        with pytest.raises(
            ValueError, match=r"00002-of-00004\.safetensors is of another save than"
        ):
            shards.read(sharded)

    def test_many_problems_are_counted(self):
        assert shards.shown([f"p{n}" for n in range(9)]) == "p0; p1; p2; p3; p4; p5; 3 more"
        assert shards.shown(["p"]) == "p"

    def test_one_file_comes_before_an_index(self, sharded):
        safetensors.write(sharded / "model.safetensors", {"x": np.ones(1)})
        assert list(shards.read(sharded)[0]) == ["x"]

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "x.pth", "x.ckpt", "x.pkl"])
    def test_a_pickle_is_never_opened(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit'\ntR.")
        with pytest.raises(ValueError, match=r"may be a pickle, .* convert it once, .*save_pretr"):
            shards.read(tmp_path)


@pytest.mark.parametrize("shard_bytes", [1, 2000, 10**9])
@pytest.mark.parametrize(("dtype", "unit"), [(None, 0), ("f16", 2**-11), ("bf16", 2**-8)])
def test_a_model_in_shards_is_the_same_model(tmp_path, recwarn, shard_bytes, dtype, unit):
    model = small()
    save_model(tmp_path, model, dtype=dtype, shard_bytes=shard_bytes)
    again = load_model(tmp_path)
    for name, array in model.state_dict().items():
        assert (np.abs(again.state_dict()[name] - array) <= unit * np.abs(array)).all()
    assert (np.abs(logits(again) - logits(model)).max() < 0.5) and again.wte.weight.dtype == "f4"
    if dtype is None:
        assert np.array_equal(logits(again), logits(model))
        assert not recwarn.list
