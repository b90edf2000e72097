"""The analytical peak of serving long contexts, one column a context length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plimsoll.api.commands import command
from plimsoll.cost.peak import AttentionCount, PeakReport
from plimsoll.cost.peak import peak as peak_of
from plimsoll.report.document import Report, Table
from plimsoll.report.wording import count_text, number_text
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.io import plain
from plimsoll.spec.model_files import load_model
from plimsoll.spec.origin import Number

__all__ = ["PeakAnswer", "peak"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakAnswer:
    """One report a context length, in the order asked."""

    model_text: str
    fleet_text: str
    peaks: tuple[PeakReport, ...]
    assumptions: tuple[str, ...]

    def report(self) -> Report:
        """See ``Answer``."""
        first, last = self.peaks[0], self.peaks[-1]
        columns = [peak.numbers() for peak in self.peaks]
        origin = next(iter(columns[0].values())).origin.value
        users = "user" if last.num_users == 1 else "users"
        return Report(
            title=f"At best {last.num_users:,} {users} of {last.context_tokens:,} tokens each on "
            f"{self.fleet_text}",
            subtitle=f"{self.model_text}, {first.num_devices} x {first.device}; limits that no "
            f"engine can beat, {origin} from the data sheet and the configuration",
            command=command(
                "peak",
                self.model_text,
                "--on",
                self.fleet_text,
                "--context",
                ",".join(str(peak.context_tokens) for peak in self.peaks),
            ),
            tables=(
                Table(
                    title="Peak by context length",
                    columns=("", *(f"{peak.context_tokens:,} tokens" for peak in self.peaks)),
                    rows=tuple(
                        (name, *(_text(column[name]) for column in columns))
                        for name in columns[0]
                        if name != "prefill"
                    ),
                    notes=(
                        "users: memory; prefill: arithmetic; decode: memory bandwidth; context "
                        "switch: host link",
                    ),
                ),
            ),
            assumptions=self.assumptions,
            notes=tuple(dict.fromkeys(w for peak in self.peaks for w in peak.warnings)),
            next_command=command(
                "fit",
                self.model_text,
                "--on",
                self.fleet_text,
                "--context",
                str(last.context_tokens),
            ),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "origin": next(iter(self.peaks[0].numbers().values())).origin.value,
            "peaks": [plain(peak) for peak in self.peaks],
            "assumptions": list(self.assumptions),
        }


def _text(number: Number) -> str:
    return count_text(number.value) if number.unit == "users" else number_text(number)


def peak(
    model: str,
    on: str,
    contexts: Sequence[int],
    *,
    users: int = 1,
    decode_tokens: int = 250,
    attention: AttentionCount = "causal",
    weight_dtype: DType | None = None,
    kv_dtype: DType | None = None,
) -> PeakAnswer:
    """The peak of ``model`` for each context length, on all devices of ``on`` together.

    Raises:
        SpecError: no context length, or hardware of more than one kind.
        InfeasibleError: the weights do not fit.
    """
    if not contexts:
        raise SpecError("peak: no context length; write for example --context 4k,50k")
    spec = load_model(model)
    fleet = parse_fleet(on)
    devices = {part.device.name: part.device for part in fleet.parts}
    if len(devices) > 1:
        raise SpecError(
            f"peak: {on} mixes {' and '.join(devices)}; the peak is of one kind of device"
        )
    (device,) = devices.values()
    return PeakAnswer(
        model_text=model,
        fleet_text=on,
        peaks=tuple(
            peak_of(
                spec,
                device,
                context,
                users=users,
                num_devices=fleet.num_devices,
                attention=attention,
                decode_tokens=decode_tokens,
                weight_dtype=weight_dtype,
                kv_dtype=kv_dtype,
            )
            for context in contexts
        ),
        assumptions=(
            *spec.assumptions,
            f"{users} in the decode batch, tensor parallel over all devices; no collectives, no "
            "launches, efficiency of one",
        ),
    )
