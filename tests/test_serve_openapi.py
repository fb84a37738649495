"""The published document, and what the server does with whatever can be made of it."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from minillm.tokenizers import ByteTokenizer
from small_gpt2 import small
from small_server import serving  # the extra `serve`, or skipped
from small_tasks import folder
from test_serve_tools import OBJECT

from minillm.serve.loading import open_served  # isort: skip
from minillm.serve.openapi import OPERATIONS, document  # isort: skip

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
COUNTS = {"max_tokens", "max_completion_tokens", "n", "best_of"}
DELICATE = (
    "tools", "tool_choice", "parallel_tool_calls", "response_format", "chat_template_kwargs",
    "regex", "grammar", "choices", "stream_options", "top_logprobs", "best_of", "dimensions",
    "encoding_format", "add_special_tokens",
)  # fmt: skip
PLAIN = {
    "type": "object",
    "properties": {"role": {"enum": ["user", "assistant"]}, "content": {"type": "string"}},
    "required": ["role", "content"],
    "additionalProperties": False,
}
EXAMPLES = 40  # for each operation


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("encoders")
    letters = ByteTokenizer(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|endoftext|>")
    letters.chat_template = OBJECT
    vectors, classes = folder(place / "v"), folder(place / "c", "classify")
    models = (
        ("noise", small(vocab_size=259, n_positions=512), letters),
        lambda chosen: open_served("vectors", str(vectors), chosen),
        lambda chosen: open_served("classes", str(classes), chosen),
    )
    with serving(*models) as found:
        yield found


def test_every_operation_is_published_and_answers(server):
    found = server.get("/openapi.json").json()
    assert found == document()
    assert set(found["paths"]) == {one.path for one in OPERATIONS}
    for one in OPERATIONS:
        if one.form is not None:
            assert server.get(one.path).status_code == 405
    for path, body in (("/health", None), ("/tokenizer_info?model=noise", None)):
        assert server.get(path).status_code == 200, body


def aimed(model, mode):
    """The document, but that requests ask for one model, unless they shall be wrong for few tokens,
    and if they shall be plain for nothing that contradicts another field."""
    found = document()
    for one in OPERATIONS:
        if one.form is not None:
            body = found["paths"][one.path]["post"]["requestBody"]["content"]["application/json"]
            properties = body["schema"]["properties"]
            properties["model"] = {"const": model}
            body["schema"]["required"] = [*body["schema"].get("required", []), "model"]
            for name in DELICATE if mode == "plain" else ():
                properties.pop(name, None)
            if mode == "plain" and "messages" in properties:
                properties["messages"]["items"] = PLAIN
            for name in () if mode == "negative" else COUNTS & set(properties):
                properties[name] = {"type": "integer", "minimum": 1, "maximum": 4}
    return found


MODELS = {"/v1/embeddings": "vectors", "/v1/rerank": "vectors", "/v1/classify": "classes"}
CASES = [("positive", one.path) for one in OPERATIONS] + [
    (mode, one.path) for mode in ("plain", "negative") for one in OPERATIONS if one.form is not None
]


@pytest.mark.parametrize("mode, path", CASES)
def test_no_request_makes_the_server_fail(server, mode, path):
    """Right requests and wrong ones: no 5xx, and every answer is one that the document knows."""
    from schemathesis.checks import not_a_server_error
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        negative_data_rejection,
        response_schema_conformance,
        status_code_conformance,
    )

    schema = schemathesis.openapi.from_dict(aimed(MODELS.get(path, "noise"), mode))
    schema.config.update(base_url=str(server.base_url))
    (operation,) = schema[path].values()
    kind = "negative" if mode == "negative" else "positive"
    strategy = operation.as_strategy(generation_mode=GenerationMode(kind))
    checks = (
        not_a_server_error, status_code_conformance, content_type_conformance,
        response_schema_conformance, negative_data_rejection,
    )  # fmt: skip

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def run(case):
        statuses.append(case.call_and_validate(checks=checks).status_code)

    statuses = []
    run()
    assert mode != "plain" or 200 in statuses
