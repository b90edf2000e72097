"""Output held to a JSON schema, token by token.

llguidance walks an Earley parser over the vocabulary's prefix tree and says which tokens may
come next; this wraps it for byte-level tokenizers, bounds white space between JSON tokens (a
model can otherwise emit it without end) and turns its messages into ours. "{}" is any JSON
object. Keywords the library cannot enforce are refused, never ignored.

Building takes time that grows faster than the schema: 10,000 optional properties took 36 s. So
the text and the grammar are bounded, which bounds the time: of what was tried nothing took longer
than 0.4 s to build or 0.7 s to refuse, on one core. The library drops the interpreter's lock.
Source: github.com/guidance-ai/llguidance, docs/json_schema.md.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Self

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray
from tokenizers import Tokenizer

from plimsoll.spec.errors import ExecutionError, SpecError

__all__ = ["Constraint", "Grammars"]

_WHITE_SPACE = r"[ \n]{0,16}"
_NUM_KEPT = 64
_MOST_CHARACTERS = 64 * 2**10
_LIMITS = LLParserLimits(initial_lexer_fuel=200_000, max_grammar_size=20_000)


class Constraint:
    """Where one request stands in its grammar."""

    __slots__ = ("_matcher",)

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def mask(self) -> NDArray[np.int32]:
        """Allowed tokens as bits, int32 words, lowest bit first; once finished, only the ends.

        Raises:
            ExecutionError: the grammar grew beyond the parser's limits.
        """
        words = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.int32)
        self._check()
        return words

    def accept(self, token: int) -> None:
        """Go on by one token.

        Raises:
            ExecutionError: the token is not allowed here.
        """
        self._matcher.consume_token(token)
        self._check()

    @property
    def finished(self) -> bool:
        """Whether the output is complete and nothing but its end may follow."""
        return self._matcher.is_stopped()

    @property
    def complete(self) -> bool:
        """Whether the output may end here, though it may go on too."""
        return self._matcher.is_accepting()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ExecutionError(f"json_schema: {_sentence(self._matcher.get_error())}")

    def copy(self) -> Self:
        """One that stands at the same place and goes its own way."""
        return type(self)(self._matcher.deep_copy())


class Grammars:
    """Compiles schemas for one tokenizer and keeps the last ones; any thread may call it."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: Sequence[int]) -> None:
        if not eos_ids:
            raise SpecError(
                "eos_ids: a grammar needs an end-of-sequence token to finish with; found none"
            )
        self._tokenizer = LLTokenizer(
            tokenizer.to_str(), eos_token=list(eos_ids), slices=LLTokenizer.json_slices()
        )
        self._kept: OrderedDict[str, Future[Constraint]] = OrderedDict()
        self._lock = threading.Lock()

    def knows(self, schema_json: str) -> bool:
        """Whether ``compile`` would answer at once."""
        with self._lock:
            kept = self._kept.get(schema_json)
            return kept is not None and kept.done()

    def compile(self, schema_json: str, tokens: Sequence[int] = ()) -> Constraint:
        """A constraint at its start, or after ``tokens`` for a request that begins again.

        Whoever asks first builds; others who ask for the same schema wait, for others they don't.

        Raises:
            SpecError: the text is no JSON schema, or one that cannot be enforced or satisfied,
                or too large.
        """
        with self._lock:
            kept = self._kept.get(schema_json)
            mine = kept is None
            if kept is None:
                kept = self._kept[schema_json] = Future()
            self._kept.move_to_end(schema_json)
            if len(self._kept) > _NUM_KEPT:
                self._kept.popitem(last=False)
        if mine:
            try:
                kept.set_result(self._start(schema_json))
            except BaseException as error:
                with self._lock:
                    self._kept.pop(schema_json, None)
                kept.set_exception(error)
        constraint = kept.result().copy()
        for token in tokens:
            constraint.accept(token)
        return constraint

    def _start(self, schema_json: str) -> Constraint:
        if len(schema_json) > _MOST_CHARACTERS:
            raise SpecError(
                f"json_schema: found {len(schema_json):,} characters, the most is "
                f"{_MOST_CHARACTERS:,}"
            )
        try:
            schema = json.loads(schema_json)
        except RecursionError:
            raise SpecError("json_schema: nested too deeply") from None
        except ValueError as error:
            raise SpecError(f"json_schema: not JSON: {_sentence(str(error))}") from None
        if not isinstance(schema, dict):
            raise SpecError(
                f"json_schema: found {schema_json.strip()[:40]}, expected a schema object"
            )
        try:
            grammar = LLMatcher.grammar_from_json_schema(
                json.dumps(schema or {"type": "object"}),
                overrides={"whitespace_pattern": _WHITE_SPACE, "lenient": False},
            )
        except ValueError as error:  # nested too deeply for the library, or half a character
            raise SpecError(f"json_schema: cannot be read: {_sentence(str(error))}") from None
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
        message = matcher.get_error()
        if message:
            raise SpecError(f"json_schema: cannot be enforced: {_sentence(message)}")
        return Constraint(matcher)


def _sentence(message: str) -> str:
    """The first thing a message of the library says, without its dump of parser states."""
    lines = [line.strip() for line in message.partition("<state>")[0].splitlines()]
    text = " ".join(line for line in lines if line)
    return text[:200].rstrip()
