"""What a worker does with a message: copies, one pass of the model, one draw of tokens.

Owns the model, the KV memory and what sampling needs to remember of each request. Knows no
queue, clock or policy. A rank of a group of workers is a ``ranks.RankRunner``.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from plimsoll.models.context import Context, Decoder, FullContext
from plimsoll.serving.executors.torch.copy_lanes import CopyLanes
from plimsoll.serving.executors.torch.decode_graphs import DecodeGraphs, can_capture
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import (
    AS_DRAWN,
    BringBack,
    Copied,
    Effect,
    Embed,
    Embedded,
    Export,
    Exported,
    Forget,
    HandOn,
    Host,
    Hosted,
    Import,
    Prepare,
    Register,
    SendOut,
    StepDone,
    StepWork,
    SwapIn,
    SwapOut,
    Unhost,
    Wipe,
    Work,
)
from plimsoll.serving.executors.torch.paged_context import PagedContext
from plimsoll.serving.executors.torch.peers import Peers
from plimsoll.serving.executors.torch.sampling.draw import draw
from plimsoll.serving.executors.torch.sampling.grammar import Constraint, Grammars
from plimsoll.serving.executors.torch.sampling.rows import History, Row, needs_history
from plimsoll.serving.executors.torch.shared_prefix import SharedPrefixContext
from plimsoll.serving.generation import SamplingParams, TokenLogprobs
from plimsoll.spec.errors import PlimsollError

__all__ = ["Runner"]


class _Drawing:
    """What drawing the next token of a request needs."""

    __slots__ = ("constraint", "history", "last", "params")

    def __init__(self, message: Register, grammars: Grammars | None) -> None:
        self.params: SamplingParams = message.params
        self.last: int | None = None
        self.history: History | None = None
        if needs_history(message.params):
            self.history = History(message.prompt, message.generated)
        self.constraint: Constraint | None = None
        if message.params.json_schema is not None and grammars is not None:
            self.constraint = grammars.compile(message.params.json_schema, message.generated)


class Runner:
    """``grammars`` None: no request may ask for a schema; ``eos_ids`` end sequences."""

    def __init__(
        self,
        model: Decoder,
        store: KvStore,
        *,
        grammars: Grammars | None = None,
        eos_ids: Collection[int] = (),
    ) -> None:
        self.model = model
        self.store = store
        self._grammars = grammars
        self._eos_ids = tuple(eos_ids)
        self._drawing: dict[int, _Drawing] = {}
        captured = can_capture(model, store.device)
        self.graphs = DecodeGraphs(model, store) if captured else None
        self._preparing = threading.Lock()
        self.report: Callable[[Copied], None] = lambda message: None
        """Told of copies beside the steps, from other threads."""
        self.copy_bytes_per_s = float("inf")
        self._lanes: CopyLanes | None = None
        self.peers: Peers | None = None
        """Workers that hold KV for this one, or it for them."""
        self._unread: Sequence[int] = ()
        self.shared_attention = False
        """Whether decodes read a prefix that they share once; captured graphs do not."""

    @property
    def lanes(self) -> CopyLanes:
        """What copies beside the steps; its threads start when it is first asked for."""
        if self._lanes is None:
            self._lanes = CopyLanes(
                self.store.pages, self._report, bytes_per_s=self.copy_bytes_per_s
            )
        return self._lanes

    def close(self) -> None:
        """End the threads that copy."""
        if self._lanes is not None:
            self._lanes.close()

    def _report(self, message: Copied) -> None:
        self.report(message)

    @property
    def num_known(self) -> int:
        """Requests registered and not forgotten."""
        return len(self._drawing)

    @torch.inference_mode()
    def step(self, message: StepWork) -> StepDone:
        """Effects, one pass, one draw."""
        started = time.perf_counter()
        broken = self._apply_all(message.effects)
        left_out = set(broken)
        if message.waits:
            failed = self.lanes.wait(message.waits)
            left_out |= {message.returning[e] for e in failed if e in message.returning}
        work = [w for w in map(self._filled_in, message.work) if w and w.request not in left_out]
        tokens: dict[int, int] = {}
        logprobs: dict[int, TokenLogprobs] = {}
        self._unread = ()
        before = (0, 0) if self.peers is None else (self.peers.num_bytes, self.peers.num_parts)
        logits = self._logits(work) if work else None
        if logits is not None:
            drawn_for = [w for w in work if w.draw >= 0]
            drawn = draw(logits, [self._row(w) for w in drawn_for])
            for place, w in enumerate(drawn_for):
                if w.request in self._unread:
                    continue
                if place in drawn.broken:
                    self._drawing[w.request].last = None
                    broken[w.request] = "the model's output for this request is not a number"
                    continue
                token = tokens[w.request] = drawn.tokens[place]
                self._drawing[w.request].last = token
                found = drawn.logprobs[place]
                if found is not None:
                    logprobs[w.request] = found
                self._remember(w.request, token, broken)
        if self.store.device.type == "cuda":
            torch.cuda.synchronize(self.store.device)
        exchanged = (0, 0)
        if self.peers is not None:
            exchanged = (self.peers.num_bytes - before[0], self.peers.num_parts - before[1])
        return StepDone(
            message.serial,
            message.slot,
            tokens,
            logprobs,
            broken,
            time.perf_counter() - started,
            self._unread,
            exchanged,
        )

    def _filled_in(self, work: Work) -> Work | None:
        """Work with the token the step before drew; None if that drew none."""
        if work.tokens[0] != AS_DRAWN:
            return work
        last = self._drawing[work.request].last
        return None if last is None else replace(work, tokens=[last])

    def _logits(self, work: Sequence[Work]) -> Tensor | None:
        """[N, V] of the last token of each item that draws; None: another rank has them."""
        if self.graphs is not None and all(len(w.tokens) == 1 for w in work):
            logits = self.graphs.logits(work)
            drawing = [i for i, w in enumerate(work) if w.draw >= 0]
            return logits if len(drawing) == len(work) else logits[drawing]
        if self.shared_attention:
            context: PagedContext = SharedPrefixContext(self.store, work)
        else:
            context = PagedContext(self.store, work, self.peers)
        device = self.store.device
        tokens = torch.tensor([t for w in work for t in w.tokens], device=device)
        positions = torch.cat([torch.arange(w.start, w.start + len(w.tokens)) for w in work])
        hidden = self._forward(tokens, positions.to(device), context)
        if context.lent is not None:
            self._unread = tuple(context.lent.unread)
        if hidden is None:
            return None
        last = [b - 1 for w, (_, b) in zip(work, context.bounds, strict=True) if w.draw >= 0]
        return self.model.logits(hidden[last])

    def _forward(self, tokens_T: Tensor, positions_T: Tensor, context: Context) -> Tensor | None:
        """[T, C] behind the last norm; None: another rank has it."""
        return self.model(tokens_T, positions_T, context)

    def _apply_all(self, effects: Sequence[Effect]) -> dict[int, str]:
        """Carry effects out; a sentence for each request whose effect failed."""
        broken: dict[int, str] = {}
        for effect in effects:
            try:
                self._apply(effect)
            except PlimsollError as error:
                broken[effect.request] = str(error)
        return broken

    def _row(self, work: Work) -> Row:
        drawing = self._drawing[work.request]
        mask = None if drawing.constraint is None else drawing.constraint.mask()
        return Row(
            params=drawing.params,
            index=work.draw,
            history=drawing.history,
            allowed=mask,
            eos_ids=self._eos_ids,
        )

    def _remember(self, request: int, token: int, broken: dict[int, str]) -> None:
        drawing = self._drawing[request]
        if drawing.history is not None:
            drawing.history.push(token)
        if drawing.constraint is not None and not drawing.constraint.finished:
            try:
                drawing.constraint.accept(token)
            except PlimsollError as error:
                broken[request] = str(error)

    def _apply(self, effect: Effect) -> None:
        if isinstance(effect, Register):
            self._drawing[effect.request] = _Drawing(effect, self._grammars)
        elif isinstance(effect, Forget):
            self._drawing.pop(effect.request, None)
            self.store.forget(effect.request)
        elif isinstance(effect, Wipe):
            self.store.wipe(effect.blocks)
        elif isinstance(effect, SwapOut):
            self.store.swap_out(effect.request, effect.blocks, effect.num_tokens)
        elif isinstance(effect, SendOut | BringBack):
            self.lanes.begin(effect)
        elif isinstance(effect, HandOn):
            self.lanes.hand_on(effect.request, effect.heir, effect.num_blocks)
        else:
            assert isinstance(effect, SwapIn)
            self.store.swap_in(effect.request, effect.blocks)

    def export(self, message: Export) -> Exported:
        """A request's KV for another worker."""
        payload = self.store.copy_out(message.request, message.blocks, message.num_tokens)
        return Exported(message.tag, payload)

    def take(self, message: Import) -> None:
        """Another worker's KV."""
        self.store.copy_in(message.request, message.blocks, message.payload)

    def host(self, message: Host) -> Hosted:
        """Another worker's KV, to attend to for it."""
        assert self.peers is not None
        self.store.copy_in(-1, message.blocks, message.payload)
        self.peers.host(message.loan, message.blocks)
        return Hosted(message.serial)

    def unhost(self, message: Unhost) -> None:
        """A loan is over."""
        assert self.peers is not None
        self.peers.unhost(message.loan)

    def prepare(self, message: Prepare) -> None:
        """Compile a schema in a thread, so that no step waits for it."""
        if self._grammars is None or self._grammars.knows(message.schema):
            return
        thread = threading.Thread(target=self._compile, args=(message.schema,), daemon=True)
        thread.start()

    def _compile(self, schema: str) -> None:
        assert self._grammars is not None
        with self._preparing, contextlib.suppress(PlimsollError):  # the engine tells the client
            self._grammars.compile(schema)

    @torch.inference_mode()
    def embed(self, message: Embed) -> Embedded | None:
        """Pooled hidden states of a prompt, beside the paged memory."""
        device = self.store.device
        context = FullContext(1, len(message.tokens))
        tokens = torch.tensor(list(message.tokens), device=device)
        hidden = self._forward(tokens, context.positions(device), context)
        if hidden is None:
            return None
        hidden = hidden.float()
        pooled = hidden[-1] if message.pooling == "last" else hidden.mean(dim=0)
        return Embedded(message.request, pooled.tolist())
