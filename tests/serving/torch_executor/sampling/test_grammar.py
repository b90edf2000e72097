"""Whatever the logits, constrained output is JSON that fits its schema."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from plimsoll.serving.executors.torch.sampling.detokenize import TextStream
from plimsoll.serving.executors.torch.sampling.draw import draw
from plimsoll.serving.executors.torch.sampling.grammar import Constraint, Grammars
from plimsoll.serving.executors.torch.sampling.rows import Row
from plimsoll.serving.generation import SamplingParams
from plimsoll.spec.errors import ExecutionError, SpecError

EOS = (0, 1)
NAMES = {"type": "string", "maxLength": 6}
SCHEMAS = {
    "any object": {},
    "nested": {
        "type": "object",
        "properties": {
            "a": {
                "type": "object",
                "properties": {"b": {"type": "integer"}, "c": NAMES},
                "required": ["b", "c"],
                "additionalProperties": False,
            },
            "d": {"type": "boolean"},
        },
        "required": ["a"],
        "additionalProperties": False,
    },
    "enum": {"enum": ["red", "grün", "日本", 3, None, {"x": [1]}]},
    "array": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 4},
    "integer": {"type": "integer", "minimum": -7, "maximum": 1234},
    "text": {"type": "string", "minLength": 3, "maxLength": 8},
    "pattern": {"type": "string", "pattern": "^[a-f]{2}-[0-9]+é$", "maxLength": 12},
    "either": {"anyOf": [{"type": "null"}, {"type": "array", "items": NAMES, "maxItems": 2}]},
    "tree": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"v": NAMES, "l": {"$ref": "#/$defs/node"}},
                "required": ["v"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    "key": {
        "type": "object",
        "properties": {"ключ 😀": {"const": "wörld"}},
        "required": ["ключ 😀"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer, EOS)


def write(
    tokenizer: Tokenizer, constraint: Constraint, seed: int, *, ends: bool = True
) -> tuple[list[int], str]:
    """Draw from random logits, favoring what closes after a while, until the end."""
    vocab_size = tokenizer.get_vocab_size() + 7
    closing = [tokenizer.token_to_id(c) for c in '"}]'] + list(EOS)
    generator = torch.Generator().manual_seed(seed)
    stream, tokens, text = TextStream(tokenizer), [], ""
    params = SamplingParams(seed=seed, json_schema="")
    while len(tokens) < 300:
        x_1V = torch.randn(1, vocab_size, generator=generator) * 3
        if len(tokens) > 30:
            x_1V[0, closing] += 15
        row = Row(params=params, index=len(tokens), allowed=constraint.mask())
        drawn = draw(x_1V, [row])
        assert not drawn.broken
        (token,) = drawn.tokens
        constraint.accept(token)
        tokens.append(token)
        text += stream.push(token)[0]
        if token in EOS or constraint.finished:
            return tokens, text + stream.finish()
    raise AssertionError(f"no end: {text}")


@pytest.mark.parametrize("name", SCHEMAS)
def test_output_fits_the_schema(tokenizer: Tokenizer, grammars: Grammars, name: str) -> None:
    schema = SCHEMAS[name]
    text_of = {}
    for seed in range(25):
        _, text = write(tokenizer, grammars.compile(json.dumps(schema)), seed)
        value = json.loads(text)
        jsonschema.validate(value, schema or {"type": "object"})
        text_of[text] = seed
    assert name == "key" or len(text_of) > 2


def test_the_end_is_allowed_only_when_complete(tokenizer: Tokenizer, grammars: Grammars) -> None:
    constraint = grammars.compile(json.dumps(SCHEMAS["nested"]))
    for token in tokenizer.encode('{"a":{"b":1,"c":"é"}').ids:
        bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
        assert not bits[list(EOS)].any() and bits[token]
        assert not constraint.complete and not constraint.finished
        constraint.accept(token)
    (brace,) = tokenizer.encode("}").ids
    constraint.accept(brace)
    assert constraint.complete and constraint.finished
    bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
    assert np.flatnonzero(bits).tolist() == list(EOS)


@pytest.mark.parametrize("name", ["nested", "tree", "text"])
def test_replaying_stands_where_it_stood(
    tokenizer: Tokenizer, grammars: Grammars, name: str
) -> None:
    schema = json.dumps(SCHEMAS[name])
    tokens, _ = write(tokenizer, grammars.compile(schema), 3)
    going = grammars.compile(schema)
    for place, token in enumerate(tokens):
        again = grammars.compile(schema, tokens[:place])
        assert again.mask().tolist() == going.mask().tolist()
        going.accept(token)
    assert grammars.compile(schema, tokens).finished == going.finished


def test_constraints_of_one_schema_do_not_share_their_place(
    tokenizer: Tokenizer, grammars: Grammars
) -> None:
    first, second = grammars.compile("{}"), grammars.compile("{}")
    start = second.mask().tolist()
    first.accept(tokenizer.encode("{").ids[0])
    assert second.mask().tolist() == start
    assert first.mask().tolist() != start


def test_white_space_ends(tokenizer: Tokenizer, grammars: Grammars) -> None:
    constraint = grammars.compile("{}")
    constraint.accept(tokenizer.encode("{").ids[0])
    (space,) = tokenizer.encode(" ").ids
    for _ in range(16):
        constraint.accept(space)
    bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
    assert not bits[space] and bits[tokenizer.token_to_id('"')]


def test_a_token_out_of_place_is_refused(tokenizer: Tokenizer, grammars: Grammars) -> None:
    with pytest.raises(ExecutionError, match="json_schema: .*doesn't satisfy the grammar"):
        grammars.compile("{}").accept(tokenizer.encode("x").ids[0])


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected a schema object"),
        ("true", "expected a schema object"),
        ('{"type": "foo"}', "Invalid type"),
        ('{"$ref": "http://example.com/x"}', "not present"),
        ('{"$ref": "#/$defs/x"}', "does not exist"),
        ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ('{"type": "string", "pattern": "("}', "unclosed group"),
        ('{"type": "integer", "minimum": 5, "maximum": 3}', "minimum"),
        ('{"enum": []}', "Unsatisfiable"),
        ('{"items":' * 300 + "{}" + "}" * 300, "cannot be read: recursion limit"),
        ('{"items":' * 5000 + "{}" + "}" * 5000, "nested too deeply"),
        ('{"const": "\\ud800"}', "cannot be read"),
        ('{"title": "' + "x" * 2**16 + '"}', "the most is 65,536"),
        (json.dumps({"properties": {f"{i}": {} for i in range(5000)}}), "grammar size"),
    ],
)
def test_bad_schemas_are_refused_in_one_sentence(
    grammars: Grammars, schema: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        grammars.compile(schema)
    assert str(caught.value).startswith("json_schema: ")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_one_schema_is_built_once_and_holds_up_no_other(tokenizer: Tokenizer) -> None:
    """Builds stand still until released; what was built or failed is told to all who wait."""
    begun: list[str] = []
    release = threading.Event()

    class Counting(Grammars):
        def _start(self, schema_json: str) -> Constraint:
            begun.append(schema_json)
            if "wait" in schema_json:
                assert release.wait(30)
            return super()._start(schema_json)

    grammars = Counting(tokenizer, EOS)
    slow, bad = '{"title": "wait", "enum": [1]}', '{"title": "wait", "type": "foo"}'
    with ThreadPoolExecutor(6) as pool:
        good = [pool.submit(grammars.compile, slow) for _ in range(3)]
        wrong = [pool.submit(grammars.compile, bad) for _ in range(3)]
        grammars.compile("{}")
        assert grammars.knows("{}") and not grammars.knows(slow)
        assert not any(future.done() for future in good + wrong)
        release.set()
        assert len({tuple(future.result().mask()) for future in good}) == 1
        for future in wrong:
            with pytest.raises(SpecError, match="Invalid type"):
                future.result()
    assert begun.count(slow) == 1 and grammars.knows(slow) and not grammars.knows(bad)


def test_a_grammar_needs_an_end(tokenizer: Tokenizer) -> None:
    with pytest.raises(SpecError, match="eos_ids"):
        Grammars(tokenizer, ())
