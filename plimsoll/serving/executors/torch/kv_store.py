"""KV memory of one worker: pages on the device, and swapped requests on the host and on disk.

Keys of a layer are [blocks, heads, block_tokens, key width], values likewise, so that the pages of
one head are read in one go; latent attention caches keys alone. Swapped requests live in host
memory up to ``host_bytes``; what goes beyond is written to files in ``disk_folder``, which is this
worker's alone, and read back when the request returns. A request that the disk cannot take or
give back fails; the others go on.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from plimsoll.models.context import KvShape, States
from plimsoll.spec.errors import ExecutionError

__all__ = ["KvStore", "Payload"]

Payload = dict[str, Tensor]
"""KV ("k.LAYER", "v.LAYER") and states ("s.LAYER.NAME") of one request, on the host."""


class KvStore:
    """See the module text. ``states`` holds fixed-size states by request and layer."""

    def __init__(
        self,
        shapes: Mapping[int, KvShape],
        *,
        num_blocks: int,
        block_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        host_bytes: float = float("inf"),
        disk_folder: Path | None = None,
    ) -> None:
        self.block_tokens = block_tokens
        self.spare_block = num_blocks
        """One block more than is given out, for what belongs to no request."""
        self.device = device
        self.dtype = dtype
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor | None] = {}
        for layer, shape in shapes.items():
            size = (num_blocks + 1, shape.num_heads, block_tokens, shape.key_dim)
            self.keys[layer] = torch.zeros(size, dtype=dtype, device=device)
            size = (*size[:3], shape.value_dim)
            self.values[layer] = (
                torch.zeros(size, dtype=dtype, device=device) if shape.value_dim else None
            )
        self.states: dict[int, dict[int, States]] = {}
        self._scratch: dict[str, Tensor] = {}
        self.read_bytes = 0
        """Bytes that ``gather`` has copied for attention."""
        self._swapped: dict[int, Payload | Path] = {}
        self._host_left = host_bytes
        self._disk = disk_folder
        if disk_folder is not None:  # of a worker that was killed
            for left in (*disk_folder.glob("*.swap"), *disk_folder.glob("*.part")):
                left.unlink(missing_ok=True)

    @property
    def num_swapped(self) -> int:
        """Requests put aside here."""
        return len(self._swapped)

    @property
    def pages(self) -> dict[str, Tensor]:
        """[blocks, ...] of every layer, "k.LAYER" and "v.LAYER"."""
        found: dict[str, Tensor] = {}
        for layer, keys in self.keys.items():
            found[f"k.{layer}"] = keys
            values = self.values[layer]
            if values is not None:
                found[f"v.{layer}"] = values
        return found

    def numbers(self, blocks: Sequence[int], num_tokens: int) -> Tensor:
        """The block numbers that hold a request's first ``num_tokens`` tokens."""
        used = -(-num_tokens // self.block_tokens)
        return torch.tensor(blocks[:used], dtype=torch.long, device=self.device)

    def gather(self, pages: Tensor, pairs: Tensor, name: str) -> Tensor:
        """[pairs, block_tokens, width]: the pages of (block * heads + head) numbers.

        The result lives in a buffer that the next call with this ``name`` overwrites: fresh
        memory would cost more than the copy.
        """
        flat = pages.view(-1, pages.shape[2] * pages.shape[3])
        size = len(pairs) * flat.shape[1]
        buffer = self._scratch.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = torch.empty(size + size // 4, dtype=pages.dtype, device=self.device)
            self._scratch[name] = buffer
        out = buffer[:size].view(len(pairs), flat.shape[1])
        torch.index_select(flat, 0, pairs, out=out)
        self.read_bytes += size * pages.element_size()
        return out.view(len(pairs), pages.shape[2], pages.shape[3])

    def copy_out(self, request: int, blocks: Sequence[int], num_tokens: int) -> Payload:
        """A request's KV and states, on the host."""
        used = self.numbers(blocks, num_tokens)
        payload: Payload = {}
        for layer, keys in self.keys.items():
            payload[f"k.{layer}"] = keys[used].cpu()
            values = self.values[layer]
            if values is not None:
                payload[f"v.{layer}"] = values[used].cpu()
        for layer, states in self.states.get(request, {}).items():
            for name, tensor in states.items():
                payload[f"s.{layer}.{name}"] = tensor.cpu()
        return payload

    def copy_in(self, request: int, blocks: Sequence[int], payload: Payload) -> None:
        """Put a payload into pages."""
        for layer, keys in self.keys.items():
            new = payload[f"k.{layer}"]
            used = self.numbers(blocks, len(new) * self.block_tokens)
            keys[used] = new.to(self.device)
            values = self.values[layer]
            if values is not None:
                values[used] = payload[f"v.{layer}"].to(self.device)
        for name, tensor in payload.items():
            if name.startswith("s."):
                _, layer, key = name.split(".", 2)
                states = self.states.setdefault(request, {}).setdefault(int(layer), {})
                states[key] = tensor.to(self.device)

    def swap_out(self, request: int, blocks: Sequence[int], num_tokens: int) -> None:
        """Put a request aside: on the host, or on disk when the host is full.

        Raises:
            ExecutionError: the disk cannot take it.
        """
        payload = self.copy_out(request, blocks, num_tokens)
        size = _bytes(payload)
        self.states.pop(request, None)
        if size <= self._host_left or self._disk is None:
            self._host_left -= size
            self._swapped[request] = payload
            return
        path = self._disk / f"{request}.swap"
        part = path.with_suffix(".part")
        try:
            self._disk.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(payload, file)
            part.replace(path)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise ExecutionError(f"no room on disk for a swapped request: {_why(error)}") from None
        self._swapped[request] = path

    def swap_in(self, request: int, blocks: Sequence[int]) -> None:
        """Bring a request back.

        Raises:
            ExecutionError: it is not here, or the disk does not give it back.
        """
        try:
            payload = self._take(request)
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
            self.forget(request)
            raise ExecutionError(f"a swapped request is lost: {_why(error)}") from None
        if payload is None:
            raise ExecutionError(f"request {request} was not put aside here")
        self.copy_in(request, blocks, payload)

    def wipe(self, blocks: Sequence[int]) -> None:
        """Zero pages that may hold no numbers: padding reads them, and 0 times NaN is NaN."""
        numbers = torch.tensor(list(blocks), dtype=torch.long, device=self.device)
        for pages in (*self.keys.values(), *self.values.values()):
            if pages is not None:
                pages[numbers] = 0

    def forget(self, request: int) -> None:
        """Drop what is kept beside the pages for a request."""
        self.states.pop(request, None)
        held = self._swapped.pop(request, None)
        if isinstance(held, Path):
            held.unlink(missing_ok=True)
        elif held is not None:
            self._host_left += _bytes(held)

    def _take(self, request: int) -> Payload | None:
        held = self._swapped.get(request)
        payload = torch.load(held, weights_only=True) if isinstance(held, Path) else held
        if held is not None:
            self.forget(request)
        return payload


def _why(error: BaseException) -> str:
    """In words, without paths: clients read it. torch hides what the system said behind its own."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__context__
    return (found is not None and found.strerror) or "the file is broken"


def _bytes(payload: Payload) -> int:
    return sum(t.numel() * t.element_size() for t in payload.values())
