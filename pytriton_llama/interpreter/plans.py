"""Triton's front end decides once per combination of types, not once per operation.

For every ``x + y`` Triton's front end works out the type of the result, which operand must be cast or broadcast, and
finally calls a few methods of a builder. Compiling, that happens once; interpreting, it happens again for each
operation of each program, and costs five times what the numpy call behind it does.

None of it depends on the numbers in the blocks: only on types, shapes and constants, which is why a kernel can be
compiled at all. So the first ``fp32[16, 64] + fp32`` runs through Triton's own code with a :class:`Recorder` for a
builder, which notes the builder calls, and the next ones replay the notes. The same goes for the library functions
written in Triton (``tl.sum``, ``tl.zeros``, ``tl.cdiv``...). Should a function ask for a number after all (the
truth of a tensor), what it did is not kept, and it runs through Triton's code every time.
"""

import copy
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

from pytriton_llama.interpreter.types import Kind, kind_of, tensor

semantic = interpreter.interpreter_semantic
# Block pointers are gone in newer versions of triton.
_HANDLE_NAMES = ("TensorHandle", "BlockPointerHandle", "TensorDescHandle")
_HANDLES = tuple(getattr(interpreter, name) for name in _HANDLE_NAMES if hasattr(interpreter, name))
_PLAIN = frozenset({int, float, bool, str, type(None)})
# Of constants alone these are constant, and cheap to keep: formulas and splats.
_FOLDED = {"create_splat", "create_make_range", "create_expand_dims", "create_broadcast"}
_LIMIT = 1 << 14  # plans; a loop over Python integers makes one for each of its values

Key = tuple[Any, ...]
recorder: "Recorder | None" = None
peeks = 0  # how often a number decided something
_plans: dict[Key, "Plan | None"] = {}
_options: Any = None


class Plan:
    """Builder calls to make. Their operands are places in a list: constants, then operands, then earlier results."""

    def __init__(self, constants: list, steps: list[tuple[Callable, list]], result: Any, kept: Any) -> None:
        self.constants, self.result = constants, result
        self.steps = [(method, _picker(places)) for method, places in steps]
        self.kept = kept  # what the key names by its address must not be collected
        self.place, self.kind = result if type(result) is tuple and type(result[1]) is Kind else (None, None)

    def replay(self, handles: list) -> Any:
        values = self.constants + handles
        for method, pick in self.steps:
            out = method(*pick(values))
            if type(out) is tuple:
                values += out
            else:
                values.append(out)
        if self.kind is not None:
            return tensor(values[self.place], self.kind)
        return self._build(self.result, values)

    def _build(self, result: Any, values: list) -> Any:
        if type(result) is list:
            return tuple(self._build(r, values) for r in result)
        if type(result) is tuple:
            return tensor(values[result[0]], result[1])
        return result.constant


class _Constant:
    """A result that is no tensor."""

    def __init__(self, constant: Any) -> None:
        self.constant = constant


def _picker(places: list) -> Callable[[list], Any]:
    """What picks the values at these places out of a list."""
    if any(type(p) is list for p in places):
        return lambda values: [_fetch(values, p) for p in places]
    if len(places) > 1:
        return itemgetter(*places)
    return itemgetter(slice(places[0], places[0] + 1) if places else slice(0))


def _fetch(values: list, place: Any) -> Any:
    return [_fetch(values, p) for p in place] if type(place) is list else values[place]


class Recorder:
    """Stands in for the builder while Triton's code decides what to do: does it, and takes notes."""

    def __init__(self, builder: Any, operands: list) -> None:
        self.builder = builder
        self.complete = True  # the notes say all there is to do
        self.constants: list[Any] = []
        self.steps: list[tuple[Callable, list]] = []
        self.places: dict[int, tuple[str, int]] = {id(h): ("operand", i) for i, h in enumerate(operands)}
        self.operands, self.results = len(operands), 0
        self.alive: list[Any] = list(operands)  # ids stay unique

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.builder, name)
        if name.startswith("create_"):
            return lambda *args, **kwargs: self.call(name, member, args, kwargs)
        if name.startswith("get_") and not name.endswith("_ty"):
            return lambda *args: self.constant(member(*args))
        return member

    def constant(self, value: Any) -> Any:
        self.places[id(value)] = ("constant", len(self.constants))
        self.constants.append(value)
        return value

    def call(self, name: str, member: Callable, args: tuple, kwargs: dict) -> Any:
        global recorder
        places = [self.place(a) for a in args]
        recorder, semantic.builder = None, self.builder  # a step's own business is no part of the notes
        try:
            out = member(*args, **kwargs)
        finally:
            recorder, semantic.builder = self, self
        if kwargs:
            self.complete = False
        if name in _FOLDED and all(type(p) is tuple and p[0] == "constant" for p in places):
            return self.constant(out)
        self.steps.append((member, places))
        # An operand that comes back as the result, now, is another thing than the result: it gets a handle of its own.
        parts = [copy.copy(p) if isinstance(p, _HANDLES) else p for p in (out if type(out) is tuple else (out,))]
        for part in parts:
            self.places[id(part)] = ("result", self.results)
            self.results += 1
        self.alive += parts
        return tuple(parts) if type(out) is tuple else parts[0]

    def place(self, arg: Any) -> Any:
        if id(arg) in self.places:
            return self.places[id(arg)]
        if isinstance(arg, list | tuple) and any(isinstance(a, (*_HANDLES, list, tuple)) for a in arg):
            return [self.place(a) for a in arg]
        if isinstance(arg, _HANDLES):  # from somewhere else
            self.complete = False
        self.constants.append(arg)
        return ("constant", len(self.constants) - 1)

    def plan(self, out: Any, kept: Any) -> Plan | None:
        """The notes as a plan, or None if they do not say all there is to do."""
        offset = {"constant": 0, "operand": len(self.constants), "result": len(self.constants) + self.operands}

        def settle(place: Any) -> Any:
            return [settle(p) for p in place] if type(place) is list else offset[place[0]] + place[1]

        def returned(value: Any) -> Any:
            if type(value) is tl.tensor:
                if value.handle is None or id(value.handle) in self.places:
                    return settle(self.place(value.handle)), value.kind
            elif type(value) is tuple:
                return [returned(v) for v in value]
            elif type(value) in _PLAIN:
                return _Constant(value)
            self.complete = False

        # Constants first: a None among the results is one.
        for value in out if type(out) is tuple else (out,):
            if type(value) is tl.tensor and value.handle is None:
                self.constant(None)
                offset = {k: v + (k != "constant") for k, v in offset.items()}
        result = returned(out)
        if not self.complete:
            return None
        return Plan(self.constants, [(m, [settle(p) for p in ps]) for m, ps in self.steps], result, kept)


def _describe(args: Any, key: list, handles: list) -> bool:
    """Add what plans depend on to the key and the tensors' handles to the list; False if that is not possible."""
    for a in args:
        kind = type(a)
        if kind is tl.tensor:
            key.append(a.kind)
            handles.append(a.handle)
        elif kind in _PLAIN:
            key += (kind, a if a == a else "nan")  # NaN is no key: it differs from itself
        elif kind is list or kind is tuple or kind is tl.core.tuple:
            key += (kind, len(a))
            if not _describe(a, key, handles):
                return False
        elif kind is slice:
            key.append(slice)
            if not _describe((a.start, a.stop, a.step), key, handles):
                return False
        elif kind is tl.constexpr:
            key.append(tl.constexpr)
            if not _describe((a.value,), key, handles):
                return False
        elif kind is tl.dtype:
            key += (kind, a.name)
        elif isinstance(a, tl.core.tensor_descriptor_base):
            key += (kind, kind_of(a.type.block_type))
            handles.append(a.handle)
        elif isinstance(a, tl.dtype | interpreter.InterpretedFunction):
            key += (kind, id(a))
        else:
            return False
    return True


def _copied(value: Any, copies: list) -> Any:
    """The arguments with handles of their own, so that two equal operands stay two."""
    kind = type(value)
    if kind is tl.tensor or isinstance(value, tl.core.tensor_descriptor_base):
        value = copy.copy(value)
        value.handle = copy.copy(value.handle)
        copies.append(value.handle)
        return value
    if kind is list or kind is tuple:
        return kind(_copied(v, copies) for v in value)
    if kind is tl.core.tuple:
        return kind([_copied(v, copies) for v in value], value.type)
    return value


def planned(function: Callable, **extra: Any) -> Callable:
    """The function, replayed where its arguments have types and constants that it has seen before."""

    def call(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("_semantic", None)
        if recorder is not None:
            return function(*args, **kwargs, **extra)
        key: list[Any] = [call]
        handles: list[Any] = []
        for a in args:  # the common cases of _describe, in line
            if type(a) is tl.tensor:
                key.append(a.kind)
                handles.append(a.handle)
            elif type(a) is int:
                key += (int, a)
            elif not _describe((a,), key, handles):
                return function(*args, **kwargs, **extra)
        if kwargs:
            for name, a in kwargs.items():
                key.append(name)
                if not _describe((a,), key, handles):
                    return function(*args, **kwargs, **extra)
        found = tuple(key)
        try:
            plan = _plans[found]
        except KeyError:
            return _record(found, function, args, kwargs, extra)
        except TypeError:  # unhashable
            plan = None
        if plan is None:
            return function(*args, **kwargs, **extra)
        return plan.replay(handles)

    return call


def _record(key: Key, function: Callable, args: tuple, kwargs: dict, extra: dict) -> Any:
    global recorder
    operands: list[Any] = []
    own_args = [_copied(a, operands) for a in args]
    own_kwargs = {name: _copied(a, operands) for name, a in kwargs.items()}
    builder = semantic.builder
    recorder = semantic.builder = notes = Recorder(builder, operands)
    try:
        out = function(*own_args, **own_kwargs, **extra)
    finally:
        recorder, semantic.builder = None, builder
    if len(_plans) >= _LIMIT:
        _plans.clear()
    kept = [a for a in (*args, *kwargs.values()) if type(a) is not tl.tensor]
    _plans[key] = notes.plan(out, kept)
    return out


def peeked() -> None:
    """A number of a block decided something."""
    global peeks
    peeks += 1
    if recorder is not None:
        recorder.complete = False


def check_options(options: Any) -> None:
    """Plans hold for the builder's options that they were made under."""
    global _options
    if options is not _options:
        _plans.clear()
        _options = options


def forget() -> None:
    _plans.clear()
