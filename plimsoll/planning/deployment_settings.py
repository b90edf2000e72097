"""What a deployment row leaves unsaid: worker counts, true degrees, cache format, speculation.

Tables of public runs mislabel and leave blank. What is read into a row, each with a note:
- Degrees that multiply to the square of a group (tensor and expert degree both written, and
  multiplied) are one group of the expert degree; the same measurement stands in both spellings.
- A "tensor-parallel" degree that no worker could have is the number of devices of a whole
  disaggregated deployment; of the ways to split it the one that carries most is taken.
- Blank counts: prefill workers enough for what the decode side takes; decode workers as many as
  deployments of that engine and cut have. Wide decode workers hold attention by ranks.
- Models with multi-token-prediction heads: runs known to speculate do; where counts are blank,
  twins in the tables differ by speculation alone, and rows get the weight that errs least.
- fp8 and fp4 runs hold an 8-bit cache, but vLLM and SGLang on Hopper, whose kernels widen it.
Leaves out: engine options no column hints at.
Source: pairs of rows with equal measurements in the tables of ai-dynamo/aiconfigurator.
"""

from dataclasses import dataclass

from plimsoll.planning.deployment_model import expert_width, served_model
from plimsoll.planning.run_setup import LoadSetup, load_of, speculates
from plimsoll.spec.deployment import DeploymentRow, Workers
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.parameters import weight_bytes
from plimsoll.spec.plan import Parallel

__all__ = ["DeploymentSettings", "WorkerGroup", "settings_of"]

_HEAVY_PER_DEVICE = 64
"""Requests in flight a device from which a decode worker of ranks is one of throughput runs."""
_RANKS_PER_DEVICE = 24
_NARROWEST_EXPERT = 256
_ENGINES = ("vllm", "sglang", "trtllm")
_FORMAT_WORDS = (
    ("nvfp4", "fp4"),
    ("mxfp4", "mxfp4"),
    ("int4", "int4"),
    ("int8", "int8"),
    ("fp8", "fp8"),
    ("bf16", "bf16"),
    ("float16", "bf16"),
)
"""What names of quantization modes hold, narrowest first, and the format that is."""
_UNNAMED = {
    ("other", "width"): (5, 1.0),
    ("other", "ranks"): (1, 1.0),
    ("other", "heavy ranks"): (2, 0.5),
    ("sglang", "width"): (4, 0.0),
    ("sglang", "ranks"): (4, 0.7),
    ("sglang", "heavy ranks"): (2, 1.0),
}
"""Decode workers where no count is named, and the weight of speculation, by how they are cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerGroup:
    """Equal workers; ``count`` 0: not named, to be balanced against the other side."""

    count: int
    parallel: Parallel


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSettings:
    """A row with nothing left open.

    ``decode`` are the workers that decode, in aggregated deployments all there are; ``prefill``
    is None there. ``devices_to_split`` > 0: only the whole deployment's devices are known.
    ``speculation`` is the weight of a speculative run, 0 to 1. ``guessed`` counts inferences
    that move the prediction; ``notes`` say all.
    """

    model: ModelSpec
    device: Device
    engine: str
    kv_dtype: DType
    load: LoadSetup
    in_flight: int
    prompt_tokens: float
    output_tokens: float
    decode: WorkerGroup
    prefill: WorkerGroup | None = None
    devices_to_split: int = 0
    speculation: float = 0.0
    guessed: int = 0
    notes: tuple[str, ...] = ()


def settings_of(row: DeploymentRow) -> DeploymentSettings:
    """``row`` with everything it leaves open read into it.

    Raises:
        SpecError, UnsupportedError: an unknown model, system or engine, or no degree at all.
    """
    if row.backend not in _ENGINES:
        raise UnsupportedError(f"engine {row.backend or '(blank)'} has no profile")
    groups = (row.workers, row.prefill, row.decode)
    if any(group is not None and group.pp > 1 for group in groups):
        raise UnsupportedError("a pipeline degree above 1 is not modeled in a closed loop")
    model, precision, assumed = served_model(row.model, _precision(row))
    device = load_device(row.system)
    load = load_of(row)
    notes = [assumed] if assumed else []
    reader = _Reader(row, model, device, notes)
    found = reader.aggregated() if row.mode == "agg" else reader.disaggregated()
    narrow = precision in ("fp8", "fp4", "mxfp4")
    if row.backend != "trtllm" and device.family == "hopper":
        narrow = False
    kv_dtype = DType.FP8 if narrow else DType.BF16
    speculation = reader.speculation(found)
    return DeploymentSettings(
        model=model,
        device=device,
        engine=row.backend,
        kv_dtype=kv_dtype,
        load=load,
        in_flight=reader.in_flight,
        prompt_tokens=row.isl * load.length_mean,
        output_tokens=row.osl * load.length_mean,
        decode=found.decode,
        prefill=found.prefill,
        devices_to_split=found.devices,
        speculation=speculation,
        guessed=reader.guessed,
        notes=tuple(notes),
    )


def _precision(row: DeploymentRow) -> str:
    """The format the row names: its own word, else that of its weights."""
    if row.precision:
        return row.precision
    named = (row.moe_format or row.gemm_format).lower()
    return next((ours for word, ours in _FORMAT_WORDS if word in named), "")


@dataclass(frozen=True, slots=True)
class _Found:
    decode: WorkerGroup
    prefill: WorkerGroup | None = None
    devices: int = 0


@dataclass(slots=True)
class _Reader:
    row: DeploymentRow
    model: ModelSpec
    device: Device
    notes: list[str]
    in_flight: int = 0
    guessed: int = 0

    def guess(self, note: str) -> None:
        """Record an inference that moves the prediction."""
        self.notes.append(note)
        self.guessed += 1

    def aggregated(self) -> _Found:
        """One kind of worker, or a whole deployment behind one number."""
        workers = self.row.workers
        if workers is None or not workers.tp:
            raise SpecError("no tensor-parallel degree named")
        tp, dp = workers.tp, max(1, workers.attention_dp)
        moe_tp, ep = max(1, workers.moe_tp), max(1, workers.moe_ep)
        self.in_flight = self.row.concurrency or workers.batch * dp
        if not self.row.concurrency:
            self.guess("concurrency not named: requests of all batches")
        if not self.in_flight:
            raise SpecError("neither concurrency nor batch size named")
        width = tp * dp
        if width > 8 and 1 in (tp, dp) and moe_tp == ep > 1 and moe_tp * ep == width:
            self.notes.append(f"degrees {tp} x {dp} multiplied twice: {ep} devices")
            tp, dp, moe_tp = (1, ep, 1) if dp > 1 else (ep, 1, 1)
        elif width > 8 and tp == dp and ep == width:
            self.notes.append(f"degrees {tp} x {dp} written twice: {tp} devices")
            dp, ep, moe_tp = 1, tp, 1
        elif self._too_wide(tp, moe_tp, ep):
            return self._whole(tp)
        replicas = self._replicas(workers, dp)
        return _Found(WorkerGroup(count=replicas, parallel=self._cut(tp, dp, moe_tp, ep)))

    def _replicas(self, workers: Workers, dp: int) -> int:
        """More than one where the batch column names less than the load and that fits no cache."""
        batch = workers.batch * dp
        tokens = self.in_flight * (self.row.isl + self.row.osl)
        if 0 < batch < self.in_flight and self.in_flight % batch == 0 and tokens > 4e6:
            self.guess(f"{self.in_flight} requests in batches of {batch}: several replicas")
            return self.in_flight // batch
        return 1

    def disaggregated(self) -> _Found:
        """Prefill and decode workers."""
        prefill, decode = self.row.prefill, self.row.decode
        if prefill is None or decode is None or not prefill.tp or not decode.tp:
            raise SpecError("no tensor-parallel degree named")
        self.in_flight = self.row.concurrency
        if not self.in_flight:
            self.in_flight = decode.batch * max(1, decode.count) * max(1, decode.attention_dp)
            self.guess("concurrency not named: requests of all batches")
        if not self.in_flight:
            raise SpecError("neither concurrency nor batch size named")
        ours, theirs = _degrees(prefill), _degrees(decode)
        if prefill.count and decode.count:
            return _Found(
                WorkerGroup(count=decode.count, parallel=self._cut(*theirs)),
                WorkerGroup(count=prefill.count, parallel=self._cut(*ours)),
            )
        if ours == theirs and self._too_wide(*_without_dp(theirs)):
            return self._whole(theirs[0])
        if ours == theirs and ours[0] == ours[2] == ours[3] == 1 and expert_width(self.model):
            ours, theirs = self._unnamed_width()
        else:
            ours, theirs = self._ranked(ours, theirs)
        count = decode.count or self._decode_workers(theirs)
        supply = f"{prefill.count} for prefill" if prefill.count else "prefill to match"
        self.guess(f"worker counts not named: {count} to decode, {supply}")
        return _Found(
            WorkerGroup(count=count, parallel=self._cut(*theirs)),
            WorkerGroup(count=prefill.count, parallel=self._cut(*ours)),
        )

    def _unnamed_width(self) -> tuple["_Degrees", "_Degrees"]:
        rack = self.device.devices_per_node > 8
        prefill = 4 if rack else 8
        decode = 4 if self.in_flight <= 256 else 32 if rack and self.in_flight >= 2048 else 8
        self.guess(f"width of workers not named: {prefill} and {decode} devices")
        return (1, prefill, 1, prefill), (1, decode, 1, decode)

    def _ranked(self, ours: "_Degrees", theirs: "_Degrees") -> tuple["_Degrees", "_Degrees"]:
        """Attention by ranks where one number is written for tensor and data degree."""
        if not expert_width(self.model):
            return ours, theirs
        wide = theirs[0]
        rack = self.device.devices_per_node > 8
        busy = self.in_flight / wide > _RANKS_PER_DEVICE and self.in_flight >= 256
        if theirs[1] == 1 and ((wide >= 16 and rack) or (wide <= 8 and busy)):
            theirs = (1, wide, 1, wide)
        if ours[1] == 1 and (self.row.backend == "trtllm" or self.in_flight >= 256):
            ours = (1, ours[0], 1, ours[0])
        return ours, theirs

    def _decode_workers(self, decode: "_Degrees") -> int:
        width, ranked = decode[0] * decode[1], decode[1] > 1
        return _UNNAMED[self._kind(ranked, width)][0]

    def _kind(self, ranked: bool, width: int) -> tuple[str, str]:
        engine = "sglang" if self.row.backend == "sglang" else "other"
        cut = "heavy ranks" if ranked and self._heavy(width) else "ranks" if ranked else "width"
        return engine, cut

    def _heavy(self, width: int) -> bool:
        return self.in_flight / width >= _HEAVY_PER_DEVICE

    def _whole(self, devices: int) -> _Found:
        self.guess(f"{devices} devices are a whole deployment: split where it carries most")
        nothing = WorkerGroup(count=0, parallel=Parallel())
        return _Found(nothing, nothing, devices)

    def _too_wide(self, tp: int, moe_tp: int, ep: int) -> bool:
        """Whether a worker of ``tp`` devices, experts cut by width over all, is no worker."""
        if tp <= 8 or moe_tp != tp or ep != 1:
            return False
        fits = weight_bytes(self.model) / 8 < 0.9 * self.device.memory_bytes
        return fits or tp & (tp - 1) > 0

    def _cut(self, tp: int, dp: int, moe_tp: int, ep: int) -> Parallel:
        width, inner = tp * dp, expert_width(self.model)
        if not inner:
            return Parallel(tp=tp, attention_dp=dp)
        if moe_tp * ep != width:
            ep = width if dp > 1 else min(ep, width)
        if dp > 1 and ep < width and inner // max(1, width // ep) < _NARROWEST_EXPERT:
            ep = width
        experts = _experts(self.model)
        while ep > 1 and (width % ep or experts % ep):
            ep -= 1
        return Parallel(tp=tp, attention_dp=dp, ep=ep)

    def speculation(self, found: _Found) -> float:
        """Weight of a speculative run; see the module's text."""
        if not self.model.mtp or "_cfg" in self.row.id:
            return 0.0
        if self.row.mode == "agg":
            if found.prefill is None and speculates(self.row):
                self.guess("speculative, as runs of this release and date were")
                return 1.0
            return 0.0
        if found.devices or found.prefill is None or found.prefill.count:
            return 0.0
        decode = found.decode.parallel
        weight = _UNNAMED[self._kind(decode.attention_dp > 1, decode.num_devices)][1]
        if weight:
            self.guess("speculative" if weight == 1 else "speculative or not: between the two")
        return weight


_Degrees = tuple[int, int, int, int]


def _degrees(workers: Workers) -> _Degrees:
    named = (workers.tp, workers.attention_dp, workers.moe_tp, workers.moe_ep)
    tp, dp, moe_tp, ep = (max(1, degree) for degree in named)
    return tp, dp, moe_tp, ep


def _without_dp(degrees: _Degrees) -> tuple[int, int, int]:
    return degrees[0], degrees[2], degrees[3]


def _experts(model: ModelSpec) -> int:
    counts = [getattr(g.layer.ffn, "num_experts", 0) for g in model.layers]
    return max(counts, default=0) or 1
