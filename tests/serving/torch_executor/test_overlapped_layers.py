"""Layers run as an overlap plan says: same tokens, every piece in an order that all ranks share."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from plimsoll.models.loading import load
from plimsoll.serving.executors.torch.deploy import deploy, model_facts
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import Work
from plimsoll.serving.executors.torch.overlap_schedule import OPERATORS, schedule
from plimsoll.serving.executors.torch.overlapped_layers import OverlappedLayers, uncut_pieces
from plimsoll.serving.executors.torch.paged_context import PagedContext
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.overlap import NanoPiece, OverlapPlan
from plimsoll.spec.plan import Nano, Parallel, Pool, ServingPlan
from tests.serving.torch_executor.tiny_llama import make_folder, requests, serve_all


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


def halves(batch: int = 64, *, ahead: bool, cut: int = 24) -> OverlapPlan:
    """Two pieces an operator; with ``ahead`` the first one's attention runs a layer ahead."""
    pieces = []
    for name in OPERATORS:
        for first, end in ((0, cut), (cut, batch)):
            early = ahead and first == 0 and OPERATORS.index(name) < 5
            pieces.append(
                NanoPiece(operator=name, first_token=first, end_token=end, ahead=int(early))
            )
    return OverlapPlan(
        batch_tokens=batch, layers=2, pieces=tuple(pieces), iteration_s=1.0, sequential_s=1.0
    )


@dataclass
class Late:
    """A sum over one rank that arrives only when it is waited for: what reads too early differs."""

    log: list[str] = field(default_factory=list)

    def __call__(self, tensor: Tensor) -> "Late.Handle":
        found = tensor.clone()
        tensor.fill_(float("nan"))
        self.log.append("start")
        return Late.Handle(self, tensor, found)

    @dataclass
    class Handle:
        owner: "Late"
        tensor: Tensor
        found: Tensor

        def wait(self) -> None:
            self.owner.log.append("wait")
            self.tensor.copy_(self.found)


def pass_of(seed: int = 0) -> tuple[list[Work], Tensor]:
    """Two prompt chunks, one with tokens before it, and five decodes; their tokens."""
    generator = torch.Generator().manual_seed(seed)
    work, block = [], 0
    for request, (start, new) in enumerate([(0, 30), (20, 17), (9, 1), (40, 1), (3, 1), (25, 1)]):
        used = -(-(start + new) // 16)
        tokens = torch.randint(0, 512, (new,), generator=generator).tolist()
        work.append(Work(request, tokens, start, list(range(block, block + used)), 0))
        block += used
    return work, torch.tensor([t for w in work for t in w.tokens])


@torch.inference_mode()
@pytest.mark.parametrize(
    "plan", [halves(ahead=False), halves(ahead=True), halves(ahead=True, cut=40)]
)
def test_the_same_numbers_as_the_layers_one_by_one(folder: Path, plan: OverlapPlan) -> None:
    model = load(folder, dtype=torch.float32, device=torch.device("cpu"))
    work, tokens = pass_of()
    positions = torch.cat([torch.arange(w.start, w.start + len(w.tokens)) for w in work])
    found = []
    for way in ("plain", "overlapped"):
        store = KvStore(
            model.kv_shapes,
            num_blocks=40,
            block_tokens=16,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        generator = torch.Generator().manual_seed(1)
        for pages in (*store.keys.values(), *store.values.values()):
            assert pages is not None
            pages.normal_(0, 1, generator=generator)
        if way == "plain":
            hidden = model(tokens, positions, PagedContext(store, work))
        else:
            late = Late()
            layers = OverlappedLayers(list(model.layers), plan, late)
            hidden = model.finish(layers(model.embed(tokens), positions, store, work))
            assert late.log.count("start") == late.log.count("wait") == 2 * 2 * 2
            assert late.log[:2] != ["start", "wait"], "something runs while a sum is on its way"
        found.append((hidden, store.keys[1].clone()))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)


def test_every_piece_runs_once_behind_what_it_reads() -> None:
    plan = halves(ahead=True)
    issues = schedule(plan.pieces, layers=3)
    assert len(set((i.piece, i.layer) for i in issues)) == len(issues) == 3 * len(plan.pieces)
    at = {(plan.pieces[i.piece], i.layer): k for k, i in enumerate(issues)}
    for (piece, layer), k in at.items():
        for (other, below), j in at.items():
            same = other.meets(piece) and below == layer
            if same and OPERATORS.index(other.operator) < OPERATORS.index(piece.operator):
                beside = {other.operator, piece.operator} == {
                    "prefill attention",
                    "decode attention",
                }
                assert beside or j < k
            if other.meets(piece) and below < layer:
                assert j < k
    uncut = schedule(uncut_pieces(64), layers=2)
    assert [uncut_pieces(64)[i.piece].operator for i in uncut] == list(OPERATORS) * 2


def test_other_operators_are_refused() -> None:
    gather = NanoPiece(operator="gather heads", first_token=0, end_token=8)
    with pytest.raises(UnsupportedError, match="'gather heads' is not carried out here"):
        schedule((gather,), layers=1)
    less = tuple(p for p in halves(ahead=False).pieces if p.operator != "d")
    with pytest.raises(SpecError, match="operator d: its pieces end at token 0"):
        schedule(less, layers=2)


def test_two_ranks_with_a_plan_answer_as_one_model(folder: Path) -> None:
    """The dense batch of the policy, cut and overlapped on two processes: the same tokens."""
    asked = dict(shared=64)
    tokens = []
    for tp, overlap in ((1, None), (2, halves(ahead=True))):
        policy = Nano(token_budget=64, mean_output_tokens=12, overlap=overlap)
        pool = Pool(device="here", parallel=Parallel(tp=tp), policy=policy, max_num_seqs=16)
        plan = ServingPlan(model=str(folder), fleet="here", engine="plimsoll", pools=(pool,))
        run = deploy(plan, model_facts(folder), kv_bytes=3e7, num_threads=1, keep=True)
        run.start(120)
        tokens.append(serve_all(run, requests(8, **asked)))
    assert tokens[0] == tokens[1] and all(tokens[0])


def test_one_rank_has_nothing_to_overlap(folder: Path) -> None:
    policy = Nano(token_budget=64, overlap=halves(ahead=False))
    pool = Pool(device="here", policy=policy, max_num_seqs=16)
    plan = ServingPlan(model=str(folder), fleet="here", engine="plimsoll", pools=(pool,))
    with pytest.raises(UnsupportedError, match="policy.overlap with tp = 1"):
        deploy(plan, model_facts(folder), kv_bytes=3e7)
