"""lm-evaluation-harness on models of ours: its figures against our own and against `score`."""

import json
import sys

import pytest

import stand_in_cupy
from minillm import kernels
from minillm.generation.scoring import score
from minillm.models import folder
from minillm.tasks import harness
from minillm.tasks.choice import Choice
from minillm.tasks.evaluation import Decoder
from minillm.tokenizers import CharTokenizer
from small_bigram import END, bigram, tokenizer
from small_gpt2 import small
from small_runs import environment

TOKENIZER = CharTokenizer.from_characters("abcdefgh .", ())
ROWS = [
    {"question": "ab", "choices": ["c", "dd", "e"], "answer": 0},
    {"question": "b", "choices": ["c", "aaa", "h"], "answer": 0},
    {"question": "cab", "choices": ["a", "bb", "ch"], "answer": 0},
    {"question": "a", "choices": ["hhh", "b", "ca"], "answer": 1},
    {"question": "dd", "choices": ["ab", "ba", "h"], "answer": 2},
]
TASK = """
task: local_letters
dataset_path: json
dataset_kwargs:
  data_files: {{test: "{data}"}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {{metric: acc}}
"""


class Asked:
    """A request as the harness makes it."""

    def __init__(self, *args):
        self.args = args


@pytest.fixture
def model(tmp_path):
    folder.save_model(tmp_path / "model", small(n_positions=16), TOKENIZER)
    return harness.HarnessModel(str(tmp_path / "model"))


class TestModel:
    """What needs no harness."""

    def test_it_computes_where_it_is_told(self, model):
        with stand_in_cupy.installed(), kernels.use("reference"):
            there = harness.HarnessModel(model.path, device="cuda:1")
            assert there.model.device == "cuda:1"
            asked = [Asked("abc ", "dab")]
            [(total, _)] = there.loglikelihood(asked, True)
        assert total == pytest.approx(model.loglikelihood(asked, True)[0][0], abs=1e-4)
        with pytest.raises(ValueError, match="'tpu' is not known, 'cpu' or 'cuda' is needed"):
            harness.HarnessModel(model.path, device="tpu")

    def test_likelihoods_are_those_of_score(self, model):
        text, begin = "abc dab ch", 4
        told = score(model.model, TOKENIZER, text).log_probabilities
        [(total, greedy)] = model.loglikelihood([Asked(text[:begin], text[begin:])], True)
        spaced = begin - 1  # the space before goes with what follows
        assert total == pytest.approx(sum(told[spaced:]), abs=1e-5)
        assert greedy is False
        assert model.loglikelihood_rolling([Asked(text), Asked("")], True) == [
            score(model.model, TOKENIZER, text).total, 0.0
        ]  # fmt: skip

    def test_answers_come_in_the_order_of_the_requests(self, model):
        pairs = [("ab", " c"), ("ab", " dd"), ("b", "a"), ("ab", " c")]
        found = model.loglikelihood([Asked(*pair) for pair in pairs], True)
        alone = [model.loglikelihood([Asked(*pair)], True)[0] for pair in pairs]
        assert found == alone and found[0] == found[3]

    def test_texts_are_written_until_a_stop_string(self, tmp_path):
        folder.save_model(tmp_path / "m", bigram(f"a12{END}", f"b7.89{END}"), tokenizer())
        one = harness.HarnessModel(str(tmp_path / "m"))
        asked = [("a", {"until": ["x"]}), ("b", {"until": ["."], "max_gen_toks": 4}), ("b", {})]
        found = one.generate_until([Asked(*each) for each in asked], True)
        assert found == ["12", "7", "7.89"]
        short = one.generate_until([Asked("b", {"max_gen_toks": 1, "do_sample": False})], True)
        assert short == ["7"]
        with pytest.raises(ValueError, match="generate_until: unknown 'num_beams'"):
            one.generate_until([Asked("b", {"num_beams": 3})], True)

    @pytest.mark.parametrize("words, line", [
        ({"pretrained": "x"}, "harness: unknown argument 'pretrained', one of path"),
        ({"strid": 3}, "harness: unknown argument 'strid'; did you mean stride"),
    ])  # fmt: skip
    def test_arguments_that_are_not_known(self, tmp_path, words, line):
        with pytest.raises(ValueError, match=line):
            harness.HarnessModel("model", **words)

    def test_without_the_harness_its_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
        with pytest.raises(ImportError, match=r"pip install 'minillm\[eval\]'"):
            harness.register()


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A folder with the model and a task of its own, without network."""
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder.save_model(tmp_path / "model", small(n_positions=16), TOKENIZER)
    data = tmp_path / "letters.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/letters.yaml").write_text(TASK.format(data=data), encoding="utf-8")
    return tmp_path


class TestHarness:
    def test_a_local_task_gives_the_accuracy_that_eval_gives(self, task):
        import lm_eval
        from lm_eval.tasks import TaskManager

        made = harness.register()
        assert made is harness.register() and issubclass(made, harness.HarnessModel)
        found = lm_eval.simple_evaluate(
            model="minillm",
            model_args={"path": str(task / "model")},
            tasks=["local_letters"],
            task_manager=TaskManager(include_path=str(task / "tasks"), include_defaults=False),
            log_samples=True,
            bootstrap_iters=0,
        )
        measure = Choice()
        examples = measure.read(str(task / "letters.jsonl"), {}).examples
        ours = measure.evaluate(Decoder(small(n_positions=16), TOKENIZER), examples).metrics["acc"]
        assert 0 < ours.value < 1
        assert found["results"]["local_letters"]["acc,none"] == ours.value
        for sample in found["samples"]["local_letters"]:
            row = ROWS[sample["doc_id"]]
            for (total, _), choice in zip(sample["filtered_resps"], row["choices"], strict=True):
                begin = len(row["question"])
                text = f"{row['question']} {choice}"
                told = score(small(n_positions=16), TOKENIZER, text).log_probabilities
                assert total == pytest.approx(sum(told[begin:]), abs=1e-5)

    def test_the_command(self, task):
        import subprocess

        words = ["--model", "minillm", "--model_args", f"path={task / 'model'}", "--tasks"]
        words += ["local_letters", "--include_path", str(task / "tasks"), "--output_path"]
        done = subprocess.run(
            [sys.executable, "-m", "minillm.tasks.harness", *words, str(task / "out")],
            capture_output=True,
            encoding="utf-8",
            env=environment(),
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        [path] = (task / "out").rglob("results_*.json")
        results = json.loads(path.read_text(encoding="utf-8"))["results"]["local_letters"]
        assert results["acc,none"] == 0.6
