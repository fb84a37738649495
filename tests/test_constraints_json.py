"""JSON schemas: what is written parses, validates (`jsonschema`) and fits, however tight."""

import json
import random

import numpy
import pytest

from minillm.generation import complete
from minillm.generation.constraints import json_schema
from small_constraints import BIASES, BYTES, MERGED, accepts, bias, least, write
from small_gpt2 import small
from small_schemas import check_schemas

jsonschema = pytest.importorskip("jsonschema")
Validator = jsonschema.Draft202012Validator

ROW = {
    "type": "object",
    "properties": {"n": {"type": "number"}, "s": {"type": "string", "maxLength": 5}},
    "required": ["n", "s"],
    "additionalProperties": False,
}


def judge(schema):
    return Validator(schema, format_checker=Validator.FORMAT_CHECKER)


def test_random_schemas_are_kept_within_tight_budgets():
    rng, draws = random.Random(0), numpy.random.default_rng(0)
    assert check_schemas(judge, rng, draws, MERGED, 60) == 240


@pytest.mark.parametrize("name", BIASES)
def test_a_biased_model_writes_a_whole_object_in_twelve_tokens(name):
    constraint, draws = json_schema(ROW, MERGED), numpy.random.default_rng(0)
    for budget in (12, 13, 20, 60):
        ids, state = write(constraint, MERGED, budget, draws, bias(MERGED, name))
        text = MERGED.decode(ids, errors="strict")
        judge(ROW).validate(json.loads(text))
        assert state.finished and len(ids) <= budget


def test_a_model_of_wild_weights_writes_whole_objects():
    model = small(vocab_size=MERGED.vocab_size, n_positions=128)
    needed = least(json_schema(ROW, MERGED))
    for options in ({"temperature": 5.0, "n": 3}, {"temperature": 0}, {"beams": 3}, {"lookup": 2}):
        for budget in (needed, needed + 1, 60):
            for found in complete(
                model, MERGED, ["ab", "12 name: "], json_schema=ROW, max_tokens=budget, **options
            ):
                judge(ROW).validate(json.loads(found.text))
                assert len(found.ids) <= budget and found.finish_reason == "stop"


def texts(schema, right=(), wrong=()):
    constraint = json_schema(schema, BYTES)
    for text in right:
        assert accepts(constraint, text.encode()), text
        judge(schema).validate(json.loads(text))
    for text in wrong:
        assert not accepts(constraint, text.encode()), text


def test_numbers_are_those_of_json():
    texts(
        {"type": "number"},
        ["0", "-0", "10", "0.5", "-1.25e10", "3E-7", "1e99", "999999999999999"],
        ["3.5.5", "3.5.5.5", "01", "+1", "NaN", "-Infinity", "1.", ".5", "1e", "1e999", "-", "--1",
         "00", "1e+", "0x1", "1_0"],
    )  # fmt: skip
    texts({"type": "integer"}, ["0", "-12"], ["-0", "1.0", "1e2", "007", "-", "- 1"])


def test_strings_have_escapes_and_no_half_surrogate():
    texts(
        {"type": "string"},
        ['""', r'"\""', r'"\\"', r'"\u00e9"', r'"\u00E9"', r'"\ud83d\ude42"', '"é🙂"', r'"\/\b\n"',
         r'"\uD7FF\uE000"', '"\x7f"'],
        [r'"\ud83d"', r'"\ude42"', r'"\ud83d\u0041"', r'"\ud83d\ud83d"', '"\n"', '"\t"', r'"\x41"',
         r'"\u00g0"', '"a', '"a"b', r'"\"', r'"\'"'],
    )  # fmt: skip
    constraint = json_schema({"type": "string"}, BYTES)
    assert not accepts(constraint, b'"\xed\xa0\xbd"') and not accepts(constraint, b'"\xff"')


def test_length_counts_characters_whatever_they_are_written_with():
    texts(
        {"type": "string", "minLength": 2, "maxLength": 3},
        ['"ab"', r'"\ud83d\ude42x"', '"🙂🙂🙂"', r'"\"\\\u00e9"'],
        ['"a"', '"abcd"', r'"\ud83d\ude42"', '"🙂🙂🙂🙂"'],
    )


def test_white_space_is_little():
    right = ["{}", '{"a": 1}', '{\n  "a": 1,\n  "b": [ 1, 2 ]\n}', '{ "a":1, "b":[] }']
    wrong = [" {}", "{} ", '{"a":  1}', '{"a" :1}', "{  }", '{"a":1 ,"b":2}', "[\n\n1]", "[\t1]",
             "[\n" + 13 * " " + "1]"]  # fmt: skip
    texts({"type": ["object", "array"]}, right, wrong)


def test_members_come_in_their_order_and_once():
    schema = {"properties": {"a": {"type": "null"}, "b": {"type": "boolean"}, "a~/": {"const": 1}},
              "required": ["b"]}  # fmt: skip
    texts(
        schema,
        ['{"b":true}', '{"a":null,"b":false}', '{"b":true,"a~/":1}', '{"a":null,"b":true,"a~/":1}'],
        ["{}", '{"a":null}', '{"b":true,"a":null}', '{"b":true,"b":true}', '{"b":true,}',
         '{,"b":true}', '{"b":true,"c":1}', '{"a":null "b":true}'],
    )  # fmt: skip


def test_additional_members_never_take_a_listed_name():
    schema = {
        "properties": {"ab": {"type": "null"}, "a": False},
        "additionalProperties": {"const": 1},
    }
    texts(
        schema,
        ["{}", '{"ab":null}', '{"ab":null,"b":1,"abc":1,"":1,"é":1}', '{"A":1}'],
        [
            '{"ab":1}',
            '{"ab":null,"ab":1}',
            '{"b":2}',
            '{"a":1}',
            r'{"\u0061b":1}',
            '{"b":1,"ab":null}',
        ],
    )
    texts({"required": ["x"]}, ['{"x":[1]}'], ["{}", '{"y":1}', '{"x":1,"y":2}'])
    texts(
        {"additionalProperties": {"type": "null"}, "minProperties": 1, "maxProperties": 2},
        ['{"x":null}', '{"x":null,"y":null}'],
        ["{}", '{"x":null,"y":null,"z":null}', "[]"],
    )


def test_arrays_have_places_and_a_rest():
    schema = {"prefixItems": [{"const": 1}, {"const": 2}], "items": {"const": 3}, "minItems": 1,
              "maxItems": 4}  # fmt: skip
    texts(
        schema, ["[1]", "[1,2]", "[1,2,3]", "[1, 2, 3, 3]"], ["[]", "[2]", "[1,3]", "[1,2,3,3,3]"]
    )
    texts({"prefixItems": [{"const": 1}], "items": False}, ["[]", "[1]"], ["[1,1]"])
    texts({"type": "array", "maxItems": 1, "uniqueItems": True}, ["[]", "[1]"], ["[1,2]"])


def test_bounds_of_integers_are_exact():
    for schema in (
        {"minimum": -120, "maximum": 1005, "multipleOf": 15},
        {"exclusiveMinimum": 7, "exclusiveMaximum": 111},
        {"minimum": -0.5, "maximum": 12.5},
        {"minimum": -1100, "exclusiveMaximum": -98.5, "multipleOf": 100},
        {"minimum": 95, "multipleOf": 7},
        {"multipleOf": 37},
        {"maximum": 1200, "multipleOf": 30},
    ):
        schema = {"type": "integer", **schema}
        constraint, valid = json_schema(schema, BYTES), Validator(schema).is_valid
        for number in range(-1300, 1300):
            assert accepts(constraint, str(number).encode()) == valid(number), (schema, number)


def test_bounds_of_numbers_are_exact():
    for schema in (
        {"minimum": 0, "maximum": 1},
        {"exclusiveMinimum": -1.25, "exclusiveMaximum": 2.5},
        {"minimum": -3.05, "maximum": -0.1},
        {"exclusiveMinimum": 9.99},
        {"maximum": 0.001},
        {"exclusiveMinimum": 0, "maximum": 0.01},
    ):
        schema = {"type": "number", **schema}
        constraint, valid = json_schema(schema, BYTES), Validator(schema).is_valid
        for thousandth in range(-3100, 3100, 7):
            for text in (
                f"{thousandth / 1000}",
                f"{thousandth / 1000:.4f}",
                f"{thousandth / 100:.2f}",
            ):
                if not text.startswith("-0.0000") and text not in ("-0.00", "-0.0"):
                    assert accepts(constraint, text.encode()) == valid(float(text)), (schema, text)


def test_choices_of_schemas():
    shared = {"enum": ["red", "reddish", 1, [1, {"a": None}], 'q"', "é\n"]}
    texts(
        shared,
        ['"red"', '"reddish"', "1", '[1,{"a":null}]', r'"q\""', r'"é\n"'],
        ['"redd"', "1.0", "11"],
    )
    texts({"enum": [1, 2, "a", 3], "type": "integer", "minimum": 2}, ["2", "3"], ["1", '"a"'])
    texts({"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
           "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
          ['{"a":null}', '{"b":null}', '{"a":null,"b":null}'], ["{}"])  # fmt: skip
    texts({"allOf": [{"type": "number", "minimum": 3}, {"type": "integer", "maximum": 5},
                     {"multipleOf": 2}]}, ["4"], ["3", "5", "4.0", "6"])  # fmt: skip
    tagged = [{"properties": {"k": {"const": k}, "v": {"type": t}}, "required": ["k", "v"],
               "type": "object"} for k, t in (("n", "null"), ("b", "boolean"))]  # fmt: skip
    tagged = {"oneOf": tagged, "discriminator": {"propertyName": "k"}}
    texts(tagged, ['{"k":"n","v":null}', '{"k":"b","v":true}'], ['{"k":"n","v":true}'])


def test_joined_schemas_keep_the_narrower_of_each_bound():
    for both, right, wrong in (
        ([{"minimum": 3}, {"minimum": 5, "maximum": 9}, {"maximum": 7}], "567", "3489"),
        ([{"exclusiveMinimum": 3}, {"exclusiveMinimum": 1, "exclusiveMaximum": 6}], "45", "2367"),
    ):
        for parts in (both, both[::-1]):
            texts({"type": "integer", "allOf": parts}, right, wrong)
    for parts in ([{"minLength": 2}, {"minLength": 1, "maxLength": 3}, {"maxLength": 4}],):
        for order in (parts, parts[::-1]):
            schema = {"type": "string", "allOf": order}
            texts(schema, ['"ab"', '"abc"'], ['"a"', '"abcd"'])
    lists = {"type": "array", "items": {"const": 1}}
    texts({**lists, "allOf": [{"maxItems": 3}, {"maxItems": 1}]}, ["[]", "[1]"], ["[1,1]"])
    texts({**lists, "allOf": [{"minItems": 1}, {"minItems": 2}]}, ["[1,1]"], ["[]", "[1]"])


def test_one_of_constants_is_taken_only_where_they_differ():
    texts({"oneOf": [{"const": 1}, {"enum": [True, "a"]}]}, ["1", "true", '"a"'], ["2"])
    same_tag = [{"type": "object", "properties": {"k": {"enum": ["a", k]}}, "required": ["k"]}
                for k in "bc"]  # fmt: skip
    for branches in ([{"const": 1}, {"enum": [2, 1.0]}], same_tag):
        with pytest.raises(ValueError, match="#/oneOf: a value may be valid under both 0 and 1"):
            json_schema({"oneOf": branches}, BYTES)


def test_a_schema_may_hold_itself():
    schema = {
        "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}},
        "type": "object",
        "properties": {"v": {"$ref": "#/%24defs/t"}, "r": {"$ref": "#"}},
    }
    texts(schema, ["{}", '{"v":[[],[[]]]}', '{"v":[],"r":{"r":{}}}'], ['{"v":[1]}', '{"r":1}'])
    deep = json_schema({"type": "array"}, MERGED)
    draws = numpy.random.default_rng(0)
    ids, state = write(deep, MERGED, 600, draws, 3 * bias(MERGED, "open"))
    text = MERGED.decode(ids)
    assert state.complete and text.startswith("[" * 40) and len(text) > 100
    json.loads(text)  # which takes no thousand levels
    tree = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}}
    ids, _ = write(json_schema(tree, MERGED), MERGED, 900, draws, 3 * bias(MERGED, "open"))
    judge(tree).validate(json.loads(MERGED.decode(ids)))


def test_patterns_and_formats():
    texts({"type": "string", "pattern": "^[ab]{2}$"}, ['"ab"'], ['"a"', '"xab"'])
    texts({"type": "string", "pattern": "ab"}, ['"ab"', '"xaby"', r'"\"ab\n"'], ['"ba"'])
    texts(
        {"type": "string", "pattern": r"^\W$"},
        [r'"\""', r'"\\"', r'"\n"', r'"\u0001"', '" "'],
        ['"\n"'],
    )
    texts({"type": "string", "pattern": "^a+$", "minLength": 1}, ['"aa"'], ['""'])
    wrong = ['"2023-02-29"', '"1900-02-29"', '"0000-01-01"', '"2024-04-31"', '"2024-13-01"']
    right = ['"2024-02-29"', '"2000-02-29"', '"0001-12-31"', '"1900-02-28"']
    texts({"type": "string", "format": "date"}, right, wrong)
    right = ['"2024-01-31T23:59:59Z"', '"2024-01-31T00:00:00.5+01:30"']
    wrong = ['"2024-01-31"', '"2024-01-31T24:00:00Z"', '"2024-01-31T23:59:59"']
    texts({"type": "string", "format": "date-time"}, right, wrong)
    texts(
        {"format": "uri"}, ['"https://a.org"', '"http://a-b.c.d/x/~y"'], ['"a.org"', '"http://-.a"']
    )
    texts({"format": "ipv4"}, ['"0.255.10.9"'], ['"256.1.1.1"', '"01.1.1.1"', '"1.1.1"'])


REFUSED = [
    ({"type": "string", "minLength": 3, "maxLength": 2}, "#/minLength: 3 is more than maxLength 2"),
    ({"properties": {"a/b": {"minItems": 2, "maxItems": 1}}}, "#/properties/a~1b/minItems: 2 is"),
    ({"enum": []}, "#/enum: the list is empty"),
    ({"items": {"not": {}}}, "#/items/not: not supported"),
    ({"patternProperties": {"a": {}}}, "#/patternProperties: not supported"),
    ({"if": {}, "then": {}}, "#/if: not supported"),
    ({"type": "array", "contains": {}}, "#/contains: not supported"),
    ({"unevaluatedProperties": False}, "#/unevaluatedProperties: not supported"),
    ({"type": "array", "uniqueItems": True}, "#/uniqueItems: not supported"),
    ({"type": "text"}, "#/type: 'text'"),
    ({"minLength": -1}, "#/minLength: -1, an integer of 0 or more"),
    ({"minimum": "3"}, "#/minimum: '3', a finite number"),
    ({"type": "string", "format": "iri"}, "#/format: 'iri' is not supported"),
    ({"type": "string", "pattern": "a(?=b)"}, "#/pattern: regex: lookaround at position 1"),
    ({"type": "string", "pattern": "("}, "#/pattern: regex: missing"),
    ({"type": "string", "pattern": "^a+$", "maxLength": 3}, "#/maxLength: together with a pattern"),
    ({"type": "string", "pattern": "^a{5}$", "maxLength": 3}, "#/pattern: its texts have 5 to 5"),
    ({"type": "number", "multipleOf": 0.01}, "#/multipleOf: 0.01, an integer"),
    ({"type": "integer", "multipleOf": 257}, "#/multipleOf: 257 remainders"),
    ({"type": "integer", "minimum": 4, "maximum": 3}, "#: no number is between"),
    ({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4}, "#: no integer is between"),
    ({"type": "integer", "minimum": 11, "maximum": 13, "multipleOf": 7}, "#: no value is possible"),
    ({"required": ["a"], "additionalProperties": False}, "#/required: 'a' is forbidden"),
    ({"required": ["a"], "properties": {"a": False}}, "#/required: 'a' is forbidden"),
    ({"enum": ["a"], "type": "integer"}, "#/enum: none of the values"),
    ({"enum": [{}], "required": ["a"]}, "#/required: together with enum"),
    ({"required": ["a\ud800"]}, "#/properties: .* holds half a surrogate pair"),
    (False, "#: no value is possible"),
    ({"properties": {"x": {"type": "array", "items": False, "minItems": 1}}, "required": ["x"]},
     "#/properties/x: no value is possible"),
    ({"required": ["r"], "properties": {"r": {"$ref": "#"}}}, "#: no value is possible"),
    ({"$ref": "#"}, "leads to itself"),
    ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "#: it refers to itself"),
    ({"$ref": "#/$defs/x"}, "#/[$]ref: nothing is at '#/[$]defs/x'"),
    ({"$ref": "other.json"}, "#/[$]ref: 'other.json'"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf: a value may be valid under"),
    ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "#/pattern: both"),
    ({"allOf": [{"type": "string"}, {"type": "null"}]}, "#: no value is possible"),
    ({"type": "object", "minProperties": 2}, "#/minProperties: 2 with 0 required"),
    ({"required": ["a", "b"], "maxProperties": 1}, "#/maxProperties: 1 is less"),
    ({"items": 3}, "#/items: 3, an object or true or false"),
]  # fmt: skip


@pytest.mark.parametrize("schema, complaint", REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused_is_named_with_its_place(schema, complaint):
    with pytest.raises(ValueError, match=f"^json-schema: .*{complaint}") as caught:
        json_schema(schema, BYTES)
    assert "\n" not in str(caught.value)


def test_what_is_no_json_is_refused():
    with pytest.raises(TypeError, match="a value of JSON is needed"):
        json_schema({"const": {1, 2}}, BYTES)
    assert least(json_schema({"title": "any", "default": 3, "$id": "x:y"}, BYTES)) == 1
