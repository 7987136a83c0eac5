"""What several merges of the same tensors reckon alike is reckoned once.

Each tensor is known by how it was made: by which function, of which tensors. Where another merge calls the same
function on the same tensors, it gets the result that is there; what was changed in place since is known no more. So
methods of mergekit share task vectors, counts of magnitudes, masks and what they leave, without knowing of each other.
"""

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch

from moult.weights.largest import Largest, Order

# Functions whose result depends on their arguments alone. What costs little is reckoned again, and known by how it was
# made; the rest is kept.
_CHEAP = {
    *(torch.Tensor.sub, torch.Tensor.abs, torch.Tensor.float, torch.Tensor.to, torch.Tensor.view),
    *(torch.Tensor.reshape, torch.Tensor.reshape_as, torch.zeros, torch.full_like, torch.stack),
}
_KEPT = {torch.Tensor.mul, torch.Tensor.div, torch.Tensor.sum, torch.var, torch.count_nonzero}
_CONSTANTS = (int, float, bool, str, type(None), torch.dtype, torch.device)


class _NotKnownError(Exception):
    """An argument is no constant, and no tensor of which is known how it was made."""


class Shared(Largest):
    """Within it, merges share what they reckon alike.

    `begin` comes before the merges of each tensor; results are kept as long as they have `room` bytes, the latest used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begin((), 0)

    def begin(self, tensors: Iterable[torch.Tensor], room: int) -> None:
        """Forget everything, but that these tensors are given."""
        self.room, self.held = room, 0
        # Key → (result, its version as it was, its bytes).
        self.results: OrderedDict[Hashable, tuple[Any, int, int]] = OrderedDict()
        self.states: dict[Hashable, torch.Tensor] = {}
        self.names: dict[Hashable, int] = {}
        self.known: dict[int, tuple[weakref.ref, int, int]] = {}
        for number, tensor in enumerate(tensors):
            self._know(tensor, ("given", number))

    def call(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a function of torch, or return what it returned before."""
        call = super().call
        try:
            if func in _KEPT:
                return self.once(self._key(func, *args, *sorted(kwargs.items())), lambda: call(func, args, kwargs))
            if func in _CHEAP:
                key = self._key(func, *args, *sorted(kwargs.items()))
                result = call(func, args, kwargs)
                self._know(result, key)
                return result
            if func is torch.bernoulli:
                return self._drawn(args, kwargs)
            if func is torch.Tensor.__setitem__:
                return self._filled(*args)
        except _NotKnownError:
            pass
        return call(func, args, kwargs)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what is known by a key; make it where nothing is."""
        if key in self.results:
            result, version, _ = self.results[key]
            if not isinstance(result, torch.Tensor) or result._version == version:
                self.results.move_to_end(key)
                return result
            self._drop(key)
        result = make()
        self._keep(key, result)
        return result

    def _keep(self, key, result):
        """Keep a result by its key, as long as there is room."""
        size = 0
        if isinstance(result, torch.Tensor):
            size = result.nbytes
            self._know(result, key)
        elif isinstance(result, Order):
            size = result.bits.nbytes
        self.results[key] = result, getattr(result, "_version", 0), size
        self.held += size
        while self.held > self.room and len(self.results) > 1:
            self._drop(next(iter(self.results)))

    def order(self, values: torch.Tensor, descending: bool) -> Order:
        """Return the order of a flat tensor, one for all merges."""
        try:
            key = self._key("order", values, descending)
        except _NotKnownError:
            return super().order(values, descending)
        made, narrow = self.narrow.get(id(values), (lambda: None, values))
        chosen = narrow if made() is values else values
        return self.once(key, lambda: _SharedOrder(self, key, chosen, descending))

    def _drop(self, key):
        self.held -= self.results.pop(key)[2]

    def _know(self, tensor, key):
        """Remember how a tensor was made, unless that is known."""
        if self._name(tensor) is None:
            name = self.names.setdefault(key, len(self.names))
            self.known[id(tensor)] = weakref.ref(tensor), tensor._version, name

    def _name(self, tensor):
        """Return the name of a tensor by how it was made, None where that is not known."""
        reference, version, name = self.known.get(id(tensor), (lambda: None, 0, 0))
        return name if reference() is tensor and tensor._version == version else None

    def _key(self, *parts):
        return tuple(self._part(part) for part in parts)

    def _part(self, part):
        if isinstance(part, torch.Tensor):
            if (name := self._name(part)) is None:
                raise _NotKnownError
            return ("tensor", name)
        if isinstance(part, (tuple, list)):
            return self._key(*part)
        if isinstance(part, _CONSTANTS) or callable(part):
            # 1 and True are equal.
            return type(part), part
        raise _NotKnownError

    def _drawn(self, args, kwargs):
        """Draw, or take what was drawn from the same state of the generator and leave that as it was left then."""
        state = hashlib.blake2b(torch.get_rng_state().numpy().tobytes()).hexdigest()
        key = self._key(torch.bernoulli, *args, *sorted(kwargs.items()), state)
        drawn = []

        def draw():
            drawn.append(torch.bernoulli(*args, **kwargs))
            self.states[key] = torch.get_rng_state()
            return drawn[0]

        result = self.once(key, draw)
        if not drawn:
            torch.set_rng_state(self.states[key])
        return result

    def _filled(self, tensor, index, value):
        """Set entries of a tensor, which then is known by what it was before and by what was set."""
        key = self._key("set", tensor, index, value)
        super().call(torch.Tensor.__setitem__, (tensor, index, value), {})
        self._know(tensor, key)


class _SharedOrder(Order):
    """An order of which each choice is made once."""

    def __init__(self, mode: Shared, key: Hashable, values: torch.Tensor, descending: bool) -> None:
        super().__init__(values, descending)
        self.mode, self.key = mode, key

    def __getitem__(self, ranks: slice) -> torch.Tensor:
        choose = super().__getitem__
        return self.mode.once((self.key, ranks.start, ranks.stop), lambda: choose(ranks))
