"""Serve a model folder, a plan, or the demonstration model over HTTP."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plimsoll.api.simulate import load_plan
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.plan import ChunkedPrefill, Pool, ServingPlan

if TYPE_CHECKING:
    from plimsoll.serving.executors.torch.text_engine import TextEngine

__all__ = ["default_plan", "kv_memory_bytes", "open_engine", "serve", "worker_threads"]

_MOST_DEFAULT_KV_BYTES = 4 * 2**30


def default_plan(folder: Path, *, replicas: int = 1, device: str = "cpu") -> ServingPlan:
    """Chunked prefill with 512 tokens a step and 32 requests at once, on this machine.

    On a GPU, which would wait for the host between short steps, steps are formed ahead.
    """
    pool = Pool(
        device="this machine",
        replicas=replicas,
        policy=ChunkedPrefill(token_budget=512, ahead=device != "cpu"),
        max_num_seqs=32,
    )
    return ServingPlan(model=str(folder), fleet="this machine", engine="plimsoll", pools=(pool,))


def kv_memory_bytes(num_replicas: int) -> float:
    """KV memory of a replica if none is stated: a fifth of free memory, 4 GiB at most, shared."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(0.2 * free, _MOST_DEFAULT_KV_BYTES) / num_replicas


def worker_threads(num_workers: int) -> int:
    """Threads of a worker: ``OMP_NUM_THREADS`` if it is set, else its share of the processors that
    this process may use. Beside other busy processes fewer are faster: threads wait for each other.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (usable or 1) // num_workers)


def open_engine(
    what: Path | None,
    *,
    device: str = "cpu",
    dtype: str = "",
    replicas: int = 1,
    kv_bytes: float = 0.0,
    processes: bool = True,
    say: Callable[[str], None] = lambda sentence: None,
) -> "tuple[TextEngine, Path]":
    """A started engine and its model folder. ``what`` is a folder, a plan file, or None for the
    demonstration model, which is trained on the first call.

    Raises:
        UnsupportedError: torch or tokenizers is missing, or the plan cannot be run here.
        SpecError: there is no such model or plan.
    """
    try:
        from tokenizers import Tokenizer

        from plimsoll.serving.executors.torch.deploy import deploy, model_facts
        from plimsoll.serving.executors.torch.sampling.grammar import Grammars
        from plimsoll.serving.executors.torch.text_engine import TextEngine
    except ImportError as error:
        raise UnsupportedError(
            f"serve needs {error.name}; install plimsoll[torch,server]"
        ) from None
    folder, plan, name = _subject(what, replicas, device, say)
    facts = model_facts(folder, dtype=dtype)
    file = folder / "tokenizer.json"
    if not file.exists():
        raise UnsupportedError(f"{folder} has no tokenizer.json; convert the tokenizer first")
    text = file.read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_str(text)
    num_replicas = sum(pool.replicas for pool in plan.pools)
    run = deploy(
        plan,
        facts,
        kv_bytes=kv_bytes or kv_memory_bytes(num_replicas),
        device=device,
        processes=processes,
        num_threads=worker_threads(plan.num_devices),
        tokenizer=text,
    )
    say(f"loading {name} into {num_replicas} worker{'s' if num_replicas > 1 else ''}")
    run.start()
    engine = TextEngine(
        run,
        model_name=name,
        max_model_len=min(engine.inst.max_model_len for engine in run.engines),
        vocab_size=facts.vocab_size,
        tokenizer=tokenizer,
        grammars=Grammars(tokenizer, facts.eos_ids) if facts.eos_ids else None,
    )
    return engine, folder


def _subject(
    what: Path | None, replicas: int, device: str, say: Callable[[str], None]
) -> tuple[Path, ServingPlan, str]:
    if what is None:
        from plimsoll.evals.tinylm import tiny_lm

        say("making the demonstration model (once, about two minutes)")
        folder = tiny_lm()
        return folder, default_plan(folder, replicas=replicas, device=device), "plimsoll-demo"
    if what.is_dir():
        return what, default_plan(what, replicas=replicas, device=device), what.resolve().name
    if not what.exists():
        raise SpecError(f"{what}: no such model folder or plan file")
    plan = load_plan(what)
    folder = Path(plan.model)
    if not folder.is_dir():
        raise SpecError(
            f"{what}: model = {plan.model} is no folder; to serve a plan its model must be a "
            "folder with config.json, *.safetensors and tokenizer.json"
        )
    return folder, plan, folder.resolve().name


def serve(
    what: Path | None,
    *,
    settings: Any,
    device: str = "cpu",
    dtype: str = "",
    replicas: int = 1,
    kv_bytes: float = 0.0,
) -> bool:
    """Serve until a signal; whether all that ran had ended when it stopped."""
    try:
        from plimsoll.serving.http.app import create_app
        from plimsoll.serving.http.keys import read_keys
        from plimsoll.serving.http.run import serve as run_server
        from plimsoll.serving.http.settings import check_binding
        from plimsoll.serving.http.tokens import TextTools
    except ImportError as error:
        raise UnsupportedError(
            f"serve needs {error.name}; install plimsoll[torch,server]"
        ) from None
    keys = read_keys(settings.keys_file, os.environ)
    check_binding(settings, num_keys=len(keys))

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    engine, folder = open_engine(
        what, device=device, dtype=dtype, replicas=replicas, kv_bytes=kv_bytes, say=say
    )
    try:
        app = create_app(engine, TextTools.read(folder), settings, keys=keys)

        def ready(address: str) -> None:
            say(f"serving {engine.model_name} on {address} (chat page there, API under /v1)")

        return run_server(app, settings, ready=ready)
    finally:
        engine.close()
