"""Operator times read from published profiles, with the operator model where a profile ends.

A profile is a table of measured times by operator and tensor-parallel degree over the tokens of a
step. Between two measured sizes the time is interpolated. Beyond the sizes measured the operator
model's time is scaled to meet the profile at its edge; for a degree or operator that was not
measured it is taken as it is. Either is *flagged*: a profile with a hole never yields a zero.
Leaves out: attention and collectives, which depend on more than tokens.
Source: the profile layout of microsoft/vidur (MIT), arXiv 2405.05465.
"""

import csv
import gzip
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plimsoll.cost.operators import StepProgram, TokenOp
from plimsoll.cost.roofline import Floats, Work
from plimsoll.spec.errors import SpecError
from plimsoll.spec.model import Attention, DenseFfn, ModelSpec

__all__ = ["ProfileTable", "ProfiledProgram", "profiled_program", "read_mlp_profile"]

_MLP_COLUMNS = {
    ("qkv", 0): "attn_pre_proj",
    ("attention-out", 0): "attn_post_proj",
    ("ffn", 0): "mlp_up_proj",
    ("ffn", 1): "mlp_down_proj",
    ("norms", 0): "input_layernorm",
    ("activation", 0): "mlp_act",
}
"""Our operator, and which of its occurrences in a layer, to the profile's name of it."""


class _Row(NamedTuple):
    tokens: Floats
    seconds: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProfileTable:
    """Seconds of one run of an operator on one device, by (operator, occurrence, degree).

    ``shape`` is (hidden size, query heads, KV heads, feed-forward width) of the model profiled.
    """

    rows: Mapping[tuple[str, int, int], _Row]
    shape: tuple[int, int, int, int]
    source: str

    def seconds(
        self, op: str, occurrence: int, tp: int, tokens: Floats, fallback_s: Floats
    ) -> tuple[Floats, bool]:
        """Times at ``tokens``, and whether the operator was measured at this degree.

        ``fallback_s`` is the operator model's time at the same sizes, and at the largest
        measured size as its last element.
        """
        row = self.rows.get((op, occurrence, tp))
        if row is None:
            return fallback_s[:-1], False
        inside = np.interp(tokens, row.tokens, row.seconds)
        scaled = fallback_s[:-1] * row.seconds[-1] / fallback_s[-1]
        return np.where(tokens <= row.tokens[-1], inside, scaled), True

    def most_tokens(self, op: str, occurrence: int, tp: int) -> float:
        """The largest size measured; 0 if none was."""
        row = self.rows.get((op, occurrence, tp))
        return 0.0 if row is None else float(row.tokens[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledProgram:
    """A step program that reads profiles where there are any.

    ``missing`` names operators taken from the operator model although profiles were given;
    ``most_tokens`` is the largest step the profiles cover.
    """

    program: StepProgram
    missing: tuple[str, ...] = ()
    most_tokens: float = field(default=float("inf"))

    def warnings(self, step_tokens: int) -> tuple[str, ...]:
        """What a reader of a result must know, given the largest step that ran."""
        found = tuple(f"no profile of {name}: operator model" for name in self.missing)
        if step_tokens > self.most_tokens:
            found += (
                f"steps of up to {step_tokens:,} tokens, profiled up to {self.most_tokens:,.0f}: "
                "scaled operator model",
            )
        return found


def read_mlp_profile(path: Path) -> ProfileTable:
    """The table of a profile file: CSV, plain or gzipped, milliseconds, medians.

    Raises:
        SpecError: a column or number is missing, or a time is not above zero; names the line.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    points: dict[tuple[str, int, int], dict[float, list[float]]] = {}
    shapes = set()
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        for number, record in enumerate(csv.DictReader(file), start=2):
            try:
                tokens = float(record["num_tokens"])
                tp = int(record["num_tensor_parallel_workers"])
                shapes.add(
                    tuple(
                        int(record[name])
                        for name in ("n_embd", "n_head", "n_kv_head", "n_expanded_embd")
                    )
                )
                for (op, occurrence), column in _MLP_COLUMNS.items():
                    text = record[f"time_stats.{column}.median"]
                    if text in ("", None):
                        continue
                    seconds = float(text) * 1e-3
                    if not (0 < seconds < float("inf")):
                        raise ValueError(f"{column} took {text} ms")
                    sizes = points.setdefault((op, occurrence, tp), {})
                    sizes.setdefault(tokens, []).append(seconds)
            except (KeyError, TypeError, ValueError) as error:
                raise SpecError(
                    f"{path}, line {number}: no row of an operator profile ({error!r}); expected "
                    "num_tokens, num_tensor_parallel_workers, the model's sizes and times above 0"
                ) from None
    if len(shapes) != 1:
        raise SpecError(f"{path}: holds profiles of {len(shapes)} models; expected one")
    rows = {}
    for key, sizes in points.items():
        tokens_sorted = sorted(sizes)
        means = [float(np.median(sizes[tokens])) for tokens in tokens_sorted]
        rows[key] = _Row(np.array(tokens_sorted), np.array(means))
    ((hidden, heads, kv_heads, width),) = shapes
    return ProfileTable(rows=rows, shape=(hidden, heads, kv_heads, width), source=path.name)


def profiled_program(
    program: StepProgram, table: ProfileTable, model: ModelSpec, tp: int
) -> ProfiledProgram:
    """``program`` of ``model`` at degree ``tp`` with the operators that ``table`` measured.

    Raises:
        SpecError: the table is of a model with other layer sizes.
    """
    _check_shape(table, model)
    seen: Counter[str] = Counter()
    tokens: list[TokenOp] = []
    missing: list[str] = []
    most = float("inf")
    for op in program.tokens:
        occurrence, seen[op.name] = seen[op.name], seen[op.name] + 1
        if (op.name, occurrence) not in _MLP_COLUMNS:
            tokens.append(op)
            continue
        reach = table.most_tokens(op.name, occurrence, tp)
        if reach:
            most = min(most, reach)
            tokens.append(_measured(op, occurrence, table, tp, reach))
        else:
            missing.append(f"{op.name} at tensor-parallel degree {tp}")
            tokens.append(op)
    return ProfiledProgram(
        program=program._replace(tokens=tuple(tokens)),
        missing=tuple(dict.fromkeys(missing)),
        most_tokens=most,
    )


def _measured(op: TokenOp, occurrence: int, table: ProfileTable, tp: int, reach: float) -> TokenOp:
    model_work = op.work

    def work(tokens: Floats) -> Work:
        sizes = np.atleast_1d(np.asarray(tokens, dtype=np.float64))
        modeled = model_work(sizes)
        edge = np.atleast_1d(model_work(np.array([reach])).time_s)
        fallback_s = np.concatenate([np.broadcast_to(modeled.time_s, sizes.shape), edge])
        seconds, _ = table.seconds(op.name, occurrence, tp, sizes, fallback_s)
        return model_work(tokens)._replace(time_s=seconds.reshape(np.shape(tokens)))

    return op._replace(work=work)


def _check_shape(table: ProfileTable, model: ModelSpec) -> None:
    for group in model.layers:
        mixer, ffn = group.layer.mixer, group.layer.ffn
        if isinstance(mixer, Attention) and isinstance(ffn, DenseFfn):
            shape = (model.hidden_size, mixer.num_heads, mixer.num_kv_heads, ffn.intermediate)
        else:
            shape = (model.hidden_size, 0, 0, 0)
        if shape != table.shape:
            raise SpecError(
                f"{table.source} profiles layers of (hidden, heads, KV heads, width) "
                f"{table.shape}, but {model.name} has {shape}"
            )
