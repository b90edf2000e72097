"""Twenty applications of LLaMA-2-7B on twelve A100: chains, popularity, arrivals, three ways.

Fifteen applications are adapters of rank 16 on every layer of one foundation, five are tuned in all
weights and have the upper half of their layers to themselves (a stated assumption: how much a
full fine-tune shares depends on it). Blocks are runs of eight layers. Servers hold 2, 2, 4 and 4
devices; 100 Gb/s join the servers. Popularity is Zipf of exponent 1 over an order of applications
drawn from the seed, arrivals Poisson, lengths log-normal with means of 300 and 100 tokens.
Per-model: each application is one block of all layers, replicated by popularity. Adapter sharing:
the fifteen share one block of all layers, the five have their own. All three run the same loop.
Source of the setup: arXiv 2404.18322 section 5; lengths and rates are ours.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from plimsoll.cluster.placement import BlockDemand, Site, follow_counts, locality_place
from plimsoll.cost.block_clock import BlockClock, block_clock
from plimsoll.cost.kv import kv_bytes_per_token
from plimsoll.serving.executors.chain_guesses import surrogate_name
from plimsoll.serving.executors.chain_requests import BlockInfo
from plimsoll.serving.executors.chains_simulated import Asked, ChainSetting, SimBlock
from plimsoll.spec.dtype import DType
from plimsoll.spec.fleet import load_device
from plimsoll.spec.generators import stream
from plimsoll.spec.model_files import load_model
from plimsoll.spec.parameters import weight_bytes

__all__ = [
    "ADAPTED",
    "APPS",
    "FULL",
    "SERVERS",
    "chains_of",
    "idle_s",
    "of_one",
    "peak_flops_per_s",
    "setting_of",
    "shares_of",
    "spread_setting",
    "traffic",
    "useful_flops",
]

ADAPTED = tuple(f"adapted-{i:02d}" for i in range(15))
FULL = tuple(f"full-{i}" for i in range(5))
APPS = (*ADAPTED, *FULL)
SERVERS = (0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)
LAYERS_A_BLOCK = 8
OWN_BLOCKS = 2
"""Of four: those that a fully tuned application does not share."""
_RANK = 16
_ACTIVATION_BYTES = 2.0
_WEIGHTS_FRACTION = 0.6
_MEMORY_FRACTION = 0.9
_FAR_S = 50e-6
_NEAR_S = 15e-6
_LAUNCH_S = 100e-6
_NETWORK_BYTES_PER_S = 12.5e9


@dataclass(frozen=True, slots=True)
class _Sizes:
    layers: int
    weight_bytes: float
    kv_token_bytes: float
    hidden_bytes: float
    adapter_layer_bytes: float


@functools.cache
def _world() -> tuple[BlockClock, _Sizes]:
    model, device = load_model("llama-2-7b"), load_device("a100-sxm-80")
    layers = model.num_layers
    sizes = _Sizes(
        layers,
        weight_bytes(model),
        kv_bytes_per_token(model, model.quantization.kv_cache),
        model.hidden_size * _ACTIVATION_BYTES,
        4 * 2 * _RANK * model.hidden_size * _ACTIVATION_BYTES,
    )
    return block_clock(model, device, launch_s=_LAUNCH_S), sizes


def shares_of(seed: int) -> dict[str, float]:
    """The share of requests of each application."""
    order = stream(seed, "blockllm popularity").permutation(len(APPS))
    weights = 1.0 / np.arange(1, len(APPS) + 1)
    weights /= weights.sum()
    return {APPS[i]: float(w) for i, w in zip(order, weights, strict=True)}


def traffic(rate_per_s: float, seed: int, *, num: int) -> list[Asked]:
    """``num`` requests; lengths are drawn once a seed, whatever the rate."""
    gaps = stream(seed, "blockllm arrivals").exponential(1 / rate_per_s, num)
    shares = shares_of(seed)
    apps = stream(seed, "blockllm applications").choice(
        list(shares), size=num, p=list(shares.values())
    )
    rng = stream(seed, "blockllm lengths")
    prompts = np.clip(rng.lognormal(np.log(300) - 0.32, 0.8, num), 8, 2000).astype(int)
    outputs = np.clip(rng.lognormal(np.log(100) - 0.18, 0.6, num), 4, 600).astype(int)
    return [
        Asked(str(a), float(t), int(p), int(o))
        for a, t, p, o in zip(apps, np.cumsum(gaps), prompts, outputs, strict=True)
    ]


def idle_s(asked: Sequence[Asked]) -> npt.NDArray[np.float64]:
    """Seconds each request takes on a device with its whole model and nobody else.

    Decodes are priced at their mean context.
    """
    clock, sizes = _world()
    found = []
    for one in asked:
        first_s = clock.run_s(sizes.layers, ((one.prompt_tokens, 0),), 0, 0, ends=True)
        decodes = one.output_tokens - 1
        context = one.prompt_tokens + (one.output_tokens + 1) // 2
        found.append(first_s + decodes * clock.run_s(sizes.layers, (), 1, context, ends=True))
    return np.array(found)


def chains_of(kind: str) -> dict[str, tuple[str, ...]]:
    """The blocks of each application; ``kind``: blocks, per-model or adapter-sharing."""
    if kind == "per-model":
        return {app: (f"{app}/whole",) for app in APPS}
    if kind == "adapter-sharing":
        return {app: ("base/whole",) if app in ADAPTED else (f"{app}/whole",) for app in APPS}
    count = _world()[1].layers // LAYERS_A_BLOCK
    base = tuple(f"base/{i}" for i in range(count))
    own = count - OWN_BLOCKS
    return {
        app: base if app in ADAPTED else (*base[:own], *(f"{app}/{i}" for i in range(own, count)))
        for app in APPS
    }


@functools.lru_cache(maxsize=64)
def setting_of(kind: str, seed: int, *, locality: bool = True, copies: float = 1.0) -> ChainSetting:
    """Devices with blocks placed by expected load.

    A block has as many replicas as devices' worth of whole models run through it, ``copies`` times.
    """
    clock, sizes = _world()
    chains = chains_of(kind)
    shares = shares_of(seed)
    loads: dict[str, float] = {}
    for app, chain in chains.items():
        for name in chain:
            loads[name] = loads.get(name, 0.0) + len(SERVERS) * shares[app] / len(chain)
    blocks = tuple(_block(name, chains, sizes) for name in sorted(loads))
    device = load_device("a100-sxm-80")
    assert device.scale_up is not None
    memory = device.memory_bytes * _MEMORY_FRACTION
    placed = locality_place(
        [
            BlockDemand(name=b.info.name, weight_bytes=b.info.weight_bytes, load=loads[b.info.name])
            for b in blocks
        ],
        follow_counts(chains, shares) if locality else {},
        [Site(server=s, memory_bytes=memory * _WEIGHTS_FRACTION) for s in SERVERS],
        copies=copies * max(len(chain) for chain in chains.values()),
    )
    return ChainSetting(
        clock=clock,
        blocks=blocks,
        apps=chains,
        servers=SERVERS,
        memory_bytes=memory,
        placed=tuple(frozenset(held) for held in placed),
        hidden_bytes=sizes.hidden_bytes,
        near=(_NEAR_S, device.scale_up.bytes_per_s),
        far=(_FAR_S, _NETWORK_BYTES_PER_S),
        load_bytes_per_s=device.host.bytes_per_s,
        memory_bytes_per_s=device.memory_bytes_per_s,
    )


def _block(name: str, chains: Mapping[str, Sequence[str]], sizes: _Sizes) -> SimBlock:
    """A block by its name: all layers of a model, or a run of them."""
    whole = name.endswith("/whole")
    users = [app for app in chains if name in chains[app]]
    layers = sizes.layers if whole else LAYERS_A_BLOCK
    fraction = layers / sizes.layers
    shared = name.startswith("base/")
    adapter = layers * sizes.adapter_layer_bytes
    return SimBlock(
        info=BlockInfo(
            name=name,
            weight_bytes=sizes.weight_bytes * fraction,
            token_bytes=sizes.kv_token_bytes * fraction + sizes.hidden_bytes,
        ),
        num_layers=layers,
        ends=whole or name.endswith(f"/{sizes.layers // LAYERS_A_BLOCK - 1}"),
        adapter_bytes={app: adapter for app in users if app in ADAPTED} if shared else {},
    )


def useful_flops(asked: Sequence[Asked]) -> float:
    """Arithmetic that the requests need: two FLOPs a parameter and token, read or written."""
    tokens = sum(one.prompt_tokens + one.output_tokens for one in asked)
    return 2.0 * tokens * _world()[1].weight_bytes / _ACTIVATION_BYTES


def peak_flops_per_s() -> float:
    """Of one device at 16 bits."""
    return load_device("a100-sxm-80").flops_per_s(DType.FP16)


def spread_setting(accuracy: float) -> ChainSetting:
    """One application whose four blocks lie on four servers.

    A surrogate of the last block (one of its layers and the head) lies beside the first;
    ``accuracy`` of its guesses come true.
    """
    clock, sizes = _world()
    app = ADAPTED[0]
    chain = tuple(f"base/{i}" for i in range(sizes.layers // LAYERS_A_BLOCK))
    blocks = [_block(name, {app: chain}, sizes) for name in chain]
    last = blocks[-1].info
    surrogate = SimBlock(
        info=BlockInfo(
            name=surrogate_name(last.name),
            weight_bytes=last.weight_bytes / LAYERS_A_BLOCK,
            token_bytes=0.0,
        ),
        num_layers=1,
        ends=True,
    )
    device = load_device("a100-sxm-80")
    assert device.scale_up is not None
    return ChainSetting(
        clock=clock,
        blocks=(*blocks, surrogate),
        apps={app: chain},
        servers=tuple(range(len(chain))),
        memory_bytes=device.memory_bytes * _MEMORY_FRACTION,
        placed=tuple(
            frozenset({name, surrogate.info.name} if i == 0 else {name})
            for i, name in enumerate(chain)
        ),
        hidden_bytes=sizes.hidden_bytes,
        near=(_NEAR_S, device.scale_up.bytes_per_s),
        far=(_FAR_S, _NETWORK_BYTES_PER_S),
        load_bytes_per_s=device.host.bytes_per_s,
        memory_bytes_per_s=device.memory_bytes_per_s,
        guess_accuracy=accuracy,
    )


def of_one(asked: Sequence[Asked]) -> list[Asked]:
    """The same requests, all of the application of ``spread_setting``."""
    return [replace(one, app=ADAPTED[0]) for one in asked]
