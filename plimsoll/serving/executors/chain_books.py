"""The books of a run of chains: positions, queues, memory, and what each event leads to.

Both executors of chains, simulated and real, tell these books what happened and carry out what they
answer: ``Send`` (an input to a device) and ``Start`` (a batch of one block on a device). All
decisions are ``ChainPolicy``'s. A device that is lost takes with it what its blocks kept; a
request then resumes behind the last block whose output is still held, token ids being held here.
A block evicted while requests wait for it gets them placed elsewhere, or they wait for a place.
Where memory is short everywhere a request gives up what it holds and starts again later.
Source: arXiv 2404.18322.
"""

from collections import deque
from collections.abc import Mapping, Sequence

from plimsoll.serving.executors.chain_guesses import Ahead, Guessing, surrogate_name
from plimsoll.serving.executors.chain_requests import (
    BlockInfo,
    ChainRequest,
    Device,
    Item,
    Prices,
    Send,
    Start,
)
from plimsoll.serving.routers.chains import BlockLoad, ChainPolicy, Choice, QueueView, Waiting
from plimsoll.spec.errors import ExecutionError, SpecError, suggest

__all__ = ["ChainBooks"]

Effect = Send | Start


class ChainBooks:
    """``apps`` are chains of block names; ``devices`` come with the blocks placed on them.

    Raises:
        SpecError: a chain names an unknown block, or one that no device has; a device holds more
            than its memory.
    """

    def __init__(
        self,
        policy: ChainPolicy,
        blocks: Sequence[BlockInfo],
        apps: Mapping[str, Sequence[str]],
        devices: Sequence[Device],
        prices: Prices,
    ) -> None:
        self.policy = policy
        self.blocks = {block.name: block for block in blocks}
        self.apps = {name: tuple(chain) for name, chain in apps.items()}
        self.devices = list(devices)
        self.prices = prices
        self.live: dict[int, ChainRequest] = {}
        self.homeless: deque[ChainRequest] = deque()
        """Requests for which no device has the block, or none has memory."""
        self.log: list[tuple[object, ...]] | None = None
        """Every decision, where it is a list."""
        self.guesses = Guessing(policy, prices)
        self._touched: set[int] = set()
        self._hosts: dict[str, list[int]] = {name: [] for name in self.blocks}
        for device in self.devices:
            for name in sorted(device.blocks):
                self._known(name, f"device {device.index}")
                device.used_bytes += self.blocks[name].weight_bytes
                self._hosts[name].append(device.index)
            if device.used_bytes > device.memory_bytes:
                raise SpecError(
                    f"device {device.index}: its blocks take {device.used_bytes / 1e9:.1f} GB of "
                    f"{device.memory_bytes / 1e9:.1f} GB; place fewer"
                )
        for app, chain in self.apps.items():
            for name in chain:
                self._known(name, f"application {app}")
                if not self._hosts[name]:
                    raise SpecError(f"application {app}: no device has its block {name}; place it")

    def _known(self, name: str, where: str) -> None:
        if name not in self.blocks:
            raise SpecError(f"{where}: unknown block {name!r}.{suggest(name, self.blocks)}")

    # What happens

    def arrive(
        self, request: int, app: str, prompt_tokens: int, max_tokens: int, now_s: float
    ) -> list[Effect]:
        """A request came in.

        Raises:
            SpecError: an unknown application.
        """
        if app not in self.apps:
            raise SpecError(
                f"request {request}: unknown application {app!r}; "
                f"known are {', '.join(sorted(self.apps))}"
            )
        chain = list(self.apps[app])
        found = ChainRequest(
            request,
            app,
            chain,
            prompt_tokens,
            max_tokens,
            now_s,
            where=[-1] * len(chain),
            held=[0] * len(chain),
        )
        self.live[request] = found
        return self._settle(self._dispatch(found, now_s), now_s)

    def arrived(self, items: Sequence[Item], now_s: float) -> list[Effect]:
        """The inputs of these items are where they are to run."""
        for item in items:
            if not item.stale:
                if item.request.copying >= 0 and not item.ahead:
                    self._moved(item.request, self.devices[item.request.device])
                self._enqueue(item, now_s)
        return self._settle([], now_s)

    def done(self, device_index: int, now_s: float) -> list[Effect]:
        """The batch on a device ended; requests at the end of their chain have one token more."""
        device = self.devices[device_index]
        items, device.running, device.running_block = device.running, [], ""
        effects: list[Effect] = []
        waits: dict[str, bool] = {}
        for item in items:
            if item.stale:
                continue
            request, position = item.request, item.position
            if item.ahead:
                first = self.guesses.ended(item)
                if first is not None:
                    self._enqueue(first, now_s)
                continue
            self._hold(device, request, position, item.start + item.num)
            if position + 1 < len(request.blocks):
                request.position = position + 1
            else:
                request.generated += 1
                if request.generated == 1:
                    request.first_token_s = now_s
                if request.generated >= request.max_tokens:
                    request.end_s = now_s
                    self._forget(request)
                    del self.live[request.id]
                    continue
                request.position = 0
                ahead = self.guesses.check(request) if self.policy.speculate else None
                if ahead is not None and self._stands(request, ahead):
                    continue
            if not self._stays(item, device, waits, now_s):
                effects += self._dispatch(request, now_s)
        self._touched.add(device_index)
        return self._settle(effects + self._rehouse(now_s), now_s)

    def _stays(self, item: Item, device: Device, waits: dict[str, bool], now_s: float) -> bool:
        """The short way for one token whose keys and values lie where it is, at a short wait.

        ``_dispatch`` would say the same; the wait is read once for a batch, into ``waits``.
        """
        request, policy = item.request, self.policy
        position = request.position
        held = request.held[position]
        if (
            request.where[position] != device.index
            or request.prompt_tokens + request.generated - held != 1
            or policy.speculate
            or not policy.weigh_kv
        ):
            return False
        block = request.blocks[position]
        short = waits.get(block)
        if short is None:
            short = self._queue_s(device, block, now_s) <= policy.margin_s
            short = waits[block] = short and self._room(device) > 0
        if short:
            request.device, request.copying = device.index, -1
            item.position, item.start, item.num, item.since_s = position, held, 1, now_s
            device.queues[block].append(item)
            if self.log is not None:
                self._note("send", request.id, position, block, device.index, -1)
        return short

    def _stands(self, request: ChainRequest, ahead: Ahead) -> bool:
        """Let work ahead count, since its token came true; whether it is still under way."""
        item = ahead.first
        assert item is not None
        self._note("guess", request.id, ahead.done)
        if ahead.done:
            self._hold(self.devices[item.place], request, 0, request.tokens)
            request.position = 1
            return False
        request.device, item.ahead = item.place, ""
        return True

    def failed(self, device_index: int, now_s: float) -> list[Effect]:
        """The batch on a device did not run; its requests go on from what is held."""
        device = self.devices[device_index]
        items, device.running, device.running_block = device.running, [], ""
        effects: list[Effect] = []
        for item in items:
            if not item.stale:
                effects += self._resume(item.request, now_s)
        self._touched.add(device_index)
        return self._settle(effects, now_s)

    def ended(self, request_id: int, now_s: float) -> list[Effect]:
        """A request is over before its limit: it sampled an end, or its client went away."""
        request = self.live.pop(request_id)
        request.end_s = now_s
        request.epoch += 1
        self._forget(request)
        return self._settle(self._rehouse(now_s), now_s)

    def lost(self, device_index: int, now_s: float) -> list[Effect]:
        """A device is gone with all it held; its requests resume behind what is still held."""
        device = self.devices[device_index]
        device.up = False
        for name in sorted(device.blocks):
            self._hosts[name].remove(device_index)
        device.blocks = set()
        device.queues, device.running, device.running_block = {}, [], ""
        effects: list[Effect] = []
        for request in list(self.live.values()):
            touched = request.device == device_index or request.copying == device_index
            for position, where in enumerate(request.where):
                if where == device_index:
                    request.where[position], request.held[position] = -1, 0
                    touched = touched or position <= request.position
            if touched:
                effects += self._resume(request, now_s)
        return self._settle(effects, now_s)

    def evict(self, device_index: int, block: str, now_s: float) -> list[Effect]:
        """A block is taken off a device; what waits for it there is placed elsewhere.

        Raises:
            ExecutionError: it is not there, or runs at this moment.
        """
        device = self.devices[device_index]
        if block not in device.blocks:
            raise ExecutionError(f"device {device_index} does not have block {block}")
        if device.running_block == block:
            raise ExecutionError(f"block {block} runs on device {device_index}; evict it later")
        device.blocks.remove(block)
        self._hosts[block].remove(device_index)
        device.used_bytes -= self.blocks[block].weight_bytes
        device.queues.pop(block, None)
        effects: list[Effect] = []
        for request in list(self.live.values()):
            touched = request.device == device_index and request.blocks[request.position] == block
            for position, where in enumerate(request.where):
                if where == device_index and request.blocks[position] == block:
                    self._drop(request, position)
                    touched = touched or position <= request.position
            if touched:
                effects += self._resume(request, now_s)
        return self._settle(effects, now_s)

    def place(self, device_index: int, block: str, now_s: float) -> list[Effect]:
        """A block was loaded onto a device."""
        device = self.devices[device_index]
        device.loading.discard(block)
        if not device.up or block in device.blocks:
            return []
        device.blocks.add(block)
        device.used_bytes += self.blocks[block].weight_bytes
        self._hosts[block].append(device_index)
        return self._settle(self._rehouse(now_s), now_s)

    def overload(self, now_s: float) -> tuple[str, int] | None:
        """The block to load once more and the device to load it on, if that pays now."""
        loads = [
            BlockLoad(name, {i: self._queue_s(self.devices[i], name, now_s) for i in hosts})
            for name, hosts in self._hosts.items()
            if hosts and not any(name in device.loading for device in self.devices)
        ]
        waiting = [x for x in loads if min(x.wait_s.values()) > self.policy.replicate_wait_s]
        if not waiting:
            return None
        free = {d.index: self._queue_s(d, "", now_s) for d in self.devices if d.up}
        fits = [
            (
                load,
                {
                    i: s
                    for i, s in free.items()
                    if self._room(self.devices[i]) > 2 * self.blocks[load.block].weight_bytes
                },
            )
            for load in waiting
        ]
        copy_s = {load.block: self.prices.load_s(load.block) for load in waiting}
        for load, devices in fits:
            found = self.policy.replicate([load], devices, copy_s)
            if found is not None:
                self.devices[found.device].loading.add(found.block)
                self._note("replicate", found.block, found.device)
                return found.block, found.device
        return None

    # Where a request goes

    def _dispatch(self, request: ChainRequest, now_s: float) -> list[Effect]:
        """Send a request to where its next block is to run."""
        position = request.position
        block = request.blocks[position]
        owner = request.where[position]
        source = self._source(request)
        missing = request.missing
        if not position and owner < 0 and not self._has_place(request):
            return self._no_place(request)
        if owner >= 0 and self.policy.weigh_kv:
            device = self.devices[owner]
            queue_s = self._queue_s(device, block, now_s)
            here_s = queue_s + self.prices.hidden_s(source, owner, missing)
            if here_s <= self.policy.margin_s and self._room(device) > 0:  # none can be cheaper
                return self._send(request, owner, source, block, owner, now_s)
        choices = self._choices(request, source, now_s)
        if not choices:
            return self._no_place(request)
        chosen = choices[self.policy.dispatch(choices)]
        return self._send(request, chosen.device, source, chosen.block, owner, now_s)

    def _source(self, request: ChainRequest) -> int:
        """Where the next block's input lies; a new token lies where it was sampled."""
        if request.position:
            return request.where[request.position - 1]
        return request.where[-1] if request.generated and request.missing == 1 else -1

    def _choices(self, request: ChainRequest, source: int, now_s: float) -> list[Choice]:
        position = request.position
        owner, held = request.where[position], request.held[position]
        own = request.blocks[position]
        names = [own]
        fresh = owner < 0 and not request.generated
        if self.policy.substitute and fresh:
            names += self.blocks[own].equivalents
        choices = []
        for name in names:
            info = self.blocks[name]
            need = info.token_bytes * (request.tokens + 1)
            for index in self._hosts[name]:
                device = self.devices[index]
                kv_s, missing = 0.0, request.missing
                transfer_s = self.prices.hidden_s(source, index, missing)
                queue_s = self._queue_s(device, name, now_s)
                if owner < 0:
                    transfer_s += self.policy.passes * self.prices.hidden_s(source, index, 1)
                    stays = index == source
                    cycle_s = self._cycle_s(device, name, stays=stays)
                    queue_s = cycle_s if stays else max(queue_s, cycle_s)
                    transfer_s += self._onward_s(request, device, now_s)
                if index != owner:
                    if self._room(device) < need:
                        continue
                    if held:
                        copy_s = self.prices.copy_s(name, owner, index, held)
                        again_s = self.prices.hidden_s(source, index, held)
                        again_s += self.prices.run_s(name, held, 0)
                        kv_s = min(copy_s, again_s)
                choices.append(
                    Choice(
                        index,
                        name,
                        queue_s,
                        transfer_s,
                        kv_s,
                        owner=index == owner,
                        substitute=name != own,
                        idle=not device.running and not any(device.queues.values()),
                    )
                )
        return choices

    def _send(
        self,
        request: ChainRequest,
        target: int,
        source: int,
        block: str,
        owner: int,
        now_s: float,
    ) -> list[Effect]:
        position = request.position
        if block != request.blocks[position]:
            request.blocks[position] = block
            request.substituted = True
        request.copying = -1
        if owner >= 0 and owner != target:
            held = request.held[position]
            copy_s = self.prices.copy_s(block, owner, target, held)
            again_s = self.prices.hidden_s(source, target, held)
            again_s += self.prices.run_s(block, held, 0)
            if copy_s <= again_s:
                request.copying = owner
            else:
                self._drop(request, position)
        request.device = target
        start = request.held[position]
        item = Item(request, request.epoch, position, start, request.tokens - start)
        effects: list[Effect] = []
        self._note("send", request.id, position, block, target, request.copying)
        if self.policy.speculate:
            effects += self._guess(request, source, target, now_s)
        if source == target and request.copying < 0:
            self._enqueue(item, now_s)
            return effects
        return [Send(item, source, target, request.copying), *effects]

    def _guess(self, request: ChainRequest, source: int, target: int, now_s: float) -> list[Effect]:
        """As the last block is sent out, let a surrogate beside the first block guess."""
        first = request.where[0]
        if request.position + 1 < len(request.blocks) or request.position == 0:
            return []
        name = surrogate_name(request.blocks[-1])
        if first < 0 or first == target or name not in self.devices[first].blocks:
            return []
        item = self.guesses.begin(request, source)
        if item is None:
            return []
        if source == first:
            self._enqueue(item, now_s)
            return []
        return [Send(item, source, first, -1)]

    def _enqueue(self, item: Item, now_s: float) -> None:
        device, block = self.devices[item.device], item.block
        item.since_s = now_s
        device.queues.setdefault(block, deque()).append(item)
        if item.num > 1:
            device.prompts[block] = device.prompts.get(block, 0) + item.num
        self._touched.add(device.index)

    def _settle(self, effects: list[Effect], now_s: float) -> list[Effect]:
        """Start what can start on devices that got something to do."""
        for index in sorted(self._touched):
            effects += self.start(index, now_s)
        self._touched.clear()
        return effects

    def _has_place(self, request: ChainRequest) -> bool:
        """Whether each block of a chain is somewhere with memory for a request."""
        return all(
            any(
                self._room(self.devices[i]) >= self.blocks[name].token_bytes * (request.tokens + 1)
                for i in self._hosts[name]
            )
            for name in request.blocks
        )

    def _no_place(self, request: ChainRequest) -> list[Effect]:
        """Give up what is held and wait for a place, so that nobody waits for a waiting one."""
        for position in range(len(request.blocks)):
            self._drop(request, position)
        request.position, request.device = 0, -1
        request.epoch += 1
        self.homeless.append(request)
        self._note("wait", request.id)
        return []

    def _rehouse(self, now_s: float) -> list[Effect]:
        """Try again those that found no place, in order, until one finds none."""
        effects: list[Effect] = []
        for _ in range(len(self.homeless)):
            request = self.homeless.popleft()
            if request.id not in self.live:
                continue
            waiting = len(self.homeless)
            effects += self._dispatch(request, now_s)
            if len(self.homeless) > waiting:
                self.homeless.appendleft(self.homeless.pop())
                break
        return effects

    def _resume(self, request: ChainRequest, now_s: float) -> list[Effect]:
        """Go on behind the last block whose output is held for all tokens."""
        request.epoch += 1
        request.copying = -1
        self.guesses.forget(request)
        if request in self.homeless:
            return []
        position = request.position
        while position and request.held[position - 1] < request.tokens:
            position -= 1
        request.position = position
        self._note("resume", request.id, position)
        return self._dispatch(request, now_s)

    # What a device does next

    def start(self, device_index: int, now_s: float) -> list[Effect]:
        """Start a batch on a device that is free and has something to do."""
        device = self.devices[device_index]
        if device.running or not device.up:
            return []
        views = []
        for block, queue in device.queues.items():
            while queue and queue[0].stale:
                queue.popleft()
            if queue:
                position = queue[0].position
                oldest_s = now_s - queue[0].since_s
                views.append(QueueView(block, position, len(queue), oldest_s))
        if not views:
            return []
        block = views[self.policy.next_queue(views)].block
        waiting = [item for item in device.queues[block] if not item.stale]
        items, left = waiting, list[Item]()
        if not self.policy.takes_all(len(waiting), sum(item.num for item in waiting)):
            requests = [Waiting(i.request.app, i.num, not i.start) for i in waiting]
            taken = self.policy.batch(requests)
            items = [waiting[i] for i in taken]
            chosen = set(taken)
            left = [x for i, x in enumerate(waiting) if i not in chosen]
        device.queues[block] = deque(left)
        device.prompts[block] = sum(item.num for item in left if item.num > 1)
        device.running, device.running_block = items, block
        prompts = sum(item.num for item in items if item.num > 1)
        decodes = sum(item.num == 1 for item in items)
        device.until_s = now_s + self.prices.run_s(block, prompts, decodes)
        if self.log is not None:
            self._note("start", device_index, block, tuple(item.request.id for item in items))
        return [Start(device_index, block, tuple(items))]

    def _queue_s(self, device: Device, block: str, now_s: float) -> float:
        """Expected wait before a block could start: what runs, then one batch of each queue."""
        wait_s = max(0.0, device.until_s - now_s) if device.running else 0.0
        for name, queue in device.queues.items():
            if queue and name != block:
                wait_s += self.prices.run_s(name, device.prompts.get(name, 0), len(queue))
        return wait_s

    def _onward_s(self, request: ChainRequest, device: Device, now_s: float) -> float:
        """What a place costs later, if a block further on is not there: the ways out and back for
        every token, and the round of the device that has it."""
        for name in request.blocks[request.position + 1 :]:
            if name not in device.blocks:
                hops = [
                    2 * self.policy.passes * self.prices.hidden_s(device.index, i, 1)
                    + self._cycle_s(self.devices[i], name, stays=False)
                    for i in self._hosts[name]
                ]
                return min(hops, default=0.0)
        return 0.0

    def _cycle_s(self, device: Device, block: str, *, stays: bool) -> float:
        """Time of one token of all that a device holds, with one request more at a block.

        A request that ``stays`` waits for the same round as with its block before.
        """
        residents = device.residents
        total_s = self.prices.run_s(block, 0, residents.get(block, 0) + 1)
        for name, count in () if stays else residents.items():
            if count and name != block:
                total_s += self.prices.run_s(name, 0, count)
        return total_s

    # What is held

    def _room(self, device: Device) -> float:
        return device.memory_bytes - device.used_bytes

    def _hold(self, device: Device, request: ChainRequest, position: int, held: int) -> None:
        block = request.blocks[position]
        grown = held - request.held[position]
        device.used_bytes += grown * self.blocks[block].token_bytes
        if not request.held[position]:
            device.residents[block] = device.residents.get(block, 0) + 1
        request.where[position], request.held[position] = device.index, held

    def _moved(self, request: ChainRequest, device: Device) -> None:
        """What a block keeps has been copied to where it is to run next."""
        position = request.position
        held = request.held[position]
        self._drop(request, position)
        request.copying = -1
        self._hold(device, request, position, held)

    def _drop(self, request: ChainRequest, position: int) -> None:
        where, held = request.where[position], request.held[position]
        if where >= 0:
            block = request.blocks[position]
            self.devices[where].used_bytes -= held * self.blocks[block].token_bytes
            self.devices[where].residents[block] -= 1
        request.where[position], request.held[position] = -1, 0

    def _forget(self, request: ChainRequest) -> None:
        self.guesses.forget(request)
        for position in range(len(request.blocks)):
            self._drop(request, position)

    def _note(self, *decision: object) -> None:
        if self.log is not None:
            self.log.append(decision)
