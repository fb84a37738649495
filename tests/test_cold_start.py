"""A process imports and builds what its command needs, no more."""

import importlib
import os
import subprocess
import sys

import pytest

import small_llama
from minillm import kernels
from minillm.cli.main import COMMANDS, NUMPY_POOLS
from minillm.models import _FILES, FAMILIES
from minillm.models.gguf_export import write_gguf
from minillm.tokenizers import ByteTokenizer


def loaded(code: str) -> set[str]:
    """What a new process has imported after `code`."""
    ended = f"{code}\nimport sys\nprint('\\n' + ' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", ended], capture_output=True, text=True, encoding="utf-8", check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def command(*words: str) -> str:
    return (
        "import contextlib\nfrom minillm.cli.main import main\n"
        f"with contextlib.suppress(SystemExit):\n    main({list(words)})"
    )


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("generate", "--help")])
def test_help_needs_no_numpy(words):
    assert "numpy" not in loaded(command(*words))


@pytest.mark.parametrize(
    ("words", "given", "expected"),
    [
        ((), {"MINILLM_KERNELS": "off"}, "None"),
        (("--threads", "3"), {"MINILLM_KERNELS": "off"}, "3"),
        (("--threads=2",), {"MINILLM_KERNELS": "off"}, "2"),
        (("--threads", "0"), {"MINILLM_KERNELS": "off"}, "None"),
        ((), {}, "None" if kernels.cpu is None else "1"),
        (("--threads=2",), {}, "2" if kernels.cpu is None else "1"),
        (("--threads=2",), {"OPENBLAS_NUM_THREADS": "7"}, "7"),
    ],
)
def test_numpy_has_one_thread_beside_the_extension_else_those_asked_for(words, given, expected):
    code = command("generate", "missing", *words) + (
        "\nimport os\nprint(os.environ.get('OPENBLAS_NUM_THREADS'))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in NUMPY_POOLS}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "MINILLM_KERNELS": "auto"} | given,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.split() == [expected]


def test_opening_a_llama_imports_no_other_family_and_no_training():
    modules = loaded("from minillm.models import folder, FAMILIES\nFAMILIES['llama'].model")
    assert "minillm.models.llama" in modules
    for name in ("bert", "roberta", "distilbert", "t5", "gpt2", "transformer"):
        assert f"minillm.models.{name}" not in modules
    for room in ("training", "data", "optim", "tokenizers.training", "tokenizers.unigram"):
        assert f"minillm.{room}" not in modules


def test_writing_imports_no_constraints_where_none_is_asked_for():
    modules = loaded("from minillm.generation import Engine\nimport minillm.cli.generate")
    assert "minillm.generation.engine" in modules
    for name in ("generation.constraints", "training.trainer", "data", "optim"):
        assert f"minillm.{name}" not in modules


def test_generating_from_a_gguf_imports_nothing_of_other_formats_and_searches(tmp_path):
    model = small_llama.small("llama", vocab_size=257)
    write_gguf(tmp_path / "a.gguf", model, ByteTokenizer(), "f32")
    code = command("generate", str(tmp_path / "a.gguf"), "--prompt", "a", "--max-tokens", "1")
    modules = loaded(f"{code}\nprint()")
    assert {"minillm.models.gguf_names", "minillm.generation.engine"} <= modules
    for name in ("formats.ctranslate2", "formats.hub", "tokenizers.sentencepiece",
                 "tokenizers.char", "tokenizers.source_target", "generation.beams",
                 "generation.constraints", "generation.decoding"):  # fmt: skip
        assert f"minillm.{name}" not in modules


def test_the_process_of_a_command_ends_with_the_code_of_main():
    for words, code in ((["--version"], 0), (["generate", "missing"], 2)):
        line = [sys.executable, "-m", "minillm", *words]
        done = subprocess.run(line, check=False, capture_output=True)
        assert done.returncode == code


def test_each_command_begins_with_its_summary():
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"minillm.cli.{name.replace('-', '_')}")
        assert module.__doc__.partition("\n")[0] == summary


def test_each_family_is_found_under_its_model_types():
    for file, kinds in _FILES.items():
        family = importlib.import_module(f"minillm.models.{file}").FAMILY
        assert family.model_types == kinds
        for kind in kinds:
            assert FAMILIES[kind] is family
    assert set(FAMILIES) == {kind for kinds in _FILES.values() for kind in kinds}


@pytest.mark.parametrize("package", ["generation", "models", "tokenizers", "training"])
def test_lazy_names_are_all_there(package):
    module = importlib.import_module(f"minillm.{package}")
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is vars(module)[name]
    with pytest.raises(AttributeError, match=f"module 'minillm.{package}' has no attribute 'nil'"):
        module.nil  # noqa: B018
