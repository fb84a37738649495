"""lm-evaluation-harness against a running server, by its own client of completions."""

import json

import pytest

from minillm.tasks.choice import Choice
from minillm.tasks.evaluation import Decoder
from small_gpt2 import small
from small_server import serving  # the extra `serve`, or skipped
from test_harness import ROWS, TASK, TOKENIZER

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval, the extra `eval`, is not installed")
pytest.importorskip("tenacity", reason="tenacity, of lm_eval[api], is not installed")
pytest.importorskip("aiohttp", reason="aiohttp, of lm_eval[api], is not installed")


@pytest.mark.parametrize("tokenized", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_task_gives_the_accuracy_that_eval_gives(tmp_path, monkeypatch, tokenized, batch_size):
    import lm_eval.models  # which it does by itself only while it knows no model
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    data = tmp_path / "letters.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    (tmp_path / "letters.yaml").write_text(TASK.format(data=data), encoding="utf-8")
    model = small(n_positions=16)
    with serving(("letters", model, TOKENIZER)) as client:
        found = lm_eval.simple_evaluate(
            model="local-completions",
            model_args={
                "model": "letters",
                "base_url": f"{client.base_url}/v1/completions",
                "tokenizer_backend": "remote",  # that of the server
                "tokenized_requests": tokenized,
                "batch_size": batch_size,
                "max_length": 16,
            },
            tasks=["local_letters"],
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            log_samples=True,
            bootstrap_iters=0,
        )
    measure = Choice()
    examples = measure.read(str(data), {}).examples
    ours = measure.evaluate(Decoder(model, TOKENIZER), examples).metrics["acc"]
    assert 0 < ours.value < 1
    assert found["results"]["local_letters"]["acc,none"] == ours.value
