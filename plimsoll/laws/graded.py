"""Graded generations from a CSV: one row each, with the line in every complaint.

``read_traces``: question, model, tokens, truncated and correct, and where they are known
prompt_tokens, answer, kv_budget and block. A group is what is compared: a model under a KV
budget. All groups must have answered the same questions; where questions have unequal numbers of
trials, the first of each count, as many as all have.
``read_grades``: question and correct, in the order of sampling; a ``round`` column says that the
rows of a question are rounds of rethinking, each after the one before.
Leaves out: grading, and telling whether two answers say the same.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from plimsoll.cost.testtime import DecodeShape
from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.testtime import Traces
from plimsoll.spec.csv_records import Record, read_records
from plimsoll.spec.errors import SpecError

__all__ = ["Grades", "read_grades", "read_traces"]

_YES = frozenset(("1", "true", "yes", "right", "correct"))
_NO = frozenset(("0", "false", "no", "wrong", "incorrect"))
_LOOKS_CUT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Grades:
    """``right`` [questions, samples], or rounds in their order where ``rounds``."""

    right: Floats
    rounds: bool
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    line: int
    tokens: float
    truncated: bool
    right: bool
    prompt_tokens: float
    answer: str


def read_grades(path: Path) -> Grades:
    """Grades of a pilot.

    Raises:
        SpecError: no such columns, a grade that is missing, rounds that do not follow each other.
    """
    header, records = read_records(
        path, required=("question", "correct"), expected="a table of graded samples"
    )
    rounds = "round" in header
    if "model" in header:
        models = {record.cells[header.index("model")].strip() for record in records}
        if len(models) > 1:
            raise SpecError(
                f"{path}: {len(models)} models ({', '.join(sorted(models)[:3])}); expected the "
                "samples of one, so keep its rows alone"
            )
    found: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
    for record in records:
        cells = _cells(header, record)
        where = f"{path} line {record.line}"
        order = _count(cells["round"], f"{where}: round") if rounds else 0.0
        key = _name(cells["question"], f"{where}: question"), cells.get("sample", "")
        rows = found.setdefault(key if rounds else (key[0], ""), [])
        rows.append((order, float(_yes(cells["correct"], f"{where}: correct")), record.line))
    for (question, _), rows in found.items() if rounds else ():
        rows.sort()
        for at, (order, _, line) in enumerate(rows):
            if order - rows[0][0] != at:
                raise SpecError(
                    f"{path} line {line}: round {order:g} of question {question}; expected "
                    f"{rows[0][0] + at:g}: every round once and none left out. A ``sample`` column "
                    "tells several runs of a question apart"
                )
    what = "rounds" if rounds else "samples"
    kept, notes = _even({key[0]: len(rows) for key, rows in found.items()}, what)
    right = np.array([[one[1] for one in rows[:kept]] for rows in found.values()])
    return Grades(right=right, rounds=rounds, notes=notes)


def read_traces(
    path: Path, shape_of: Callable[[str], DecodeShape], *, prompt_tokens: float | None = None
) -> tuple[list[Traces], tuple[str, ...]]:
    """Traces of each model and KV budget, and what to know about them.

    ``shape_of`` finds a model by the name in the file; ``prompt_tokens`` stands in for a column of
    that name.

    Raises:
        SpecError: no such columns, a cell that cannot be, a question that only some have answered,
            one answer graded both ways; and whatever ``shape_of`` raises.
    """
    header, records = read_records(
        path,
        required=("question", "model", "tokens", "truncated", "correct"),
        expected="a table of graded generations",
    )
    if "prompt_tokens" not in header and prompt_tokens is None:
        raise SpecError(
            f"{path}: no column prompt_tokens; add it, or say how long prompts are, as in "
            "--prompt 256"
        )
    found: dict[tuple[str, int, int], dict[str, list[_Row]]] = {}
    for record in records:
        cells = _cells(header, record)
        where = f"{path} line {record.line}"
        group = (
            _name(cells["model"], f"{where}: model"),
            int(_count(cells.get("kv_budget") or "0", f"{where}: kv_budget")),
            int(_count(cells.get("block") or "0", f"{where}: block")),
        )
        question = _name(cells["question"], f"{where}: question")
        rows = found.setdefault(group, {}).setdefault(question, [])
        rows.append(_row(cells, where, record.line, prompt_tokens))
    _same_questions(path, found)
    with_answers = "answer" in header
    traces, notes = [], []
    for group, by_question in found.items():
        made, heard = _traces(path, group, by_question, shape_of(group[0]), with_answers)
        traces.append(made)
        notes += heard
    cuts = [each for each in traces if each.truncated is not None and each.truncated.any()]
    if cuts:
        parts = [
            f"{100 * each.truncated.mean():.1f} % of {each.shape.name} from "
            f"{each.lengths[each.truncated].min():,.0f} tokens on"
            for each in cuts
            if each.truncated is not None
        ]
        notes.append(
            f"truncated: {', '.join(parts)}; what longer limits give is not known, so none is "
            "offered"
        )
    return traces, tuple(notes)


def _row(cells: Mapping[str, str], where: str, line: int, prompt_tokens: float | None) -> _Row:
    prompt = cells.get("prompt_tokens")
    tokens = _count(cells["tokens"], f"{where}: tokens")
    if not tokens:
        raise SpecError(f"{where}: tokens is 0; expected a generation of one token or more")
    known = 0.0 if prompt_tokens is None else prompt_tokens
    return _Row(
        line=line,
        tokens=tokens,
        truncated=_yes(cells["truncated"], f"{where}: truncated"),
        right=_yes(cells["correct"], f"{where}: correct"),
        prompt_tokens=known if prompt is None else _count(prompt, f"{where}: prompt_tokens"),
        answer=cells.get("answer", ""),
    )


def _same_questions(
    path: Path, found: Mapping[tuple[str, int, int], Mapping[str, list[_Row]]]
) -> None:
    (first, questions), *others = found.items()
    for group, other in others:
        odd = sorted(questions.keys() ^ other.keys())
        if odd:
            lacks = _group_text(group if odd[0] in questions else first)
            raise SpecError(
                f"{path}: {lacks} has no generation for question {odd[0]} ({len(odd)} such "
                "questions); expected all models on the same ones, since accuracies are compared"
            )


def _traces(
    path: Path,
    group: tuple[str, int, int],
    by_question: Mapping[str, list[_Row]],
    shape: DecodeShape,
    with_answers: bool,
) -> tuple[Traces, list[str]]:
    name = _group_text(group)
    kept, heard = _even({q: len(rows) for q, rows in by_question.items()}, "trials")
    notes = [f"{name}: {note}" for note in heard]
    rows = [some[:kept] for some in by_question.values()]
    lengths = np.array([[row.tokens for row in some] for some in rows])
    cut = np.array([[row.truncated for row in some] for some in rows])
    longest = (lengths == lengths.max()) & ~cut
    if longest.sum() >= _LOOKS_CUT and lengths.max() > 1:
        notes.append(
            f"{name}: {int(longest.sum())} generations of exactly {lengths.max():,.0f} tokens are "
            "not marked truncated; if a limit ended them, mark them"
        )
    answers = None
    if with_answers:
        answers = np.array(
            [_codes(path, q, some) for q, some in zip(by_question, rows, strict=True)]
        )
    made = Traces(
        shape=shape,
        prompt_tokens=np.array([np.mean([row.prompt_tokens for row in some]) for some in rows]),
        lengths=lengths,
        right=np.array([[row.right for row in some] for some in rows]),
        truncated=cut,
        kv_budget=group[1] or None,
        block=group[2],
        answers=answers,
    )
    return made, notes


def _codes(path: Path, question: str, rows: Iterable[_Row]) -> list[int]:
    """0 for every right answer, 1 and up for the wrong ones, −1 for none."""
    seen: dict[str, tuple[int, bool]] = {}
    codes = []
    for row in rows:
        if not row.answer:
            if row.right:
                raise SpecError(
                    f"{path} line {row.line}: graded right without an answer; expected what it "
                    "said, since answers are to vote"
                )
            codes.append(-1)
            continue
        code, right = seen.setdefault(row.answer, (0 if row.right else len(seen) + 1, row.right))
        if right != row.right:
            raise SpecError(
                f"{path} line {row.line}: answer {row.answer!r} of question {question} is graded "
                "right here and wrong elsewhere, or the reverse; expected one grade an answer"
            )
        codes.append(code)
    return codes


def _even(counts: Mapping[str, int], what: str) -> tuple[int, tuple[str, ...]]:
    """The fewest that any question has, and a note if others have more."""
    least = min(counts.values())
    more = sum(count > least for count in counts.values())
    if not more:
        return least, ()
    which = next(question for question, count in counts.items() if count == least)
    first = "first" if least == 1 else f"first {least}"
    return least, (
        f"question {which} has only {least}; the {first} of each count, as {more} of "
        f"{len(counts)} questions have more {what}",
    )


def _group_text(group: tuple[str, int, int]) -> str:
    return group[0] + (f" under {group[1]:,} positions" if group[1] else "")


def _cells(header: tuple[str, ...], record: Record) -> dict[str, str]:
    return dict(zip(header, (cell.strip() for cell in record.cells), strict=True))


def _name(cell: str, where: str) -> str:
    if not cell:
        raise SpecError(f"{where} is empty; expected a name")
    return cell


def _yes(cell: str, where: str) -> bool:
    if cell.lower() in _YES:
        return True
    if cell.lower() in _NO:
        return False
    raise SpecError(
        f"{where} is {cell!r}; expected 1 or 0 (or true, false); grade it or leave the row out"
    )


def _count(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not (np.isfinite(value) and value >= 0 and value == int(value)):
        raise SpecError(f"{where} is {cell!r}; expected a whole number, 0 or more")
    return value
