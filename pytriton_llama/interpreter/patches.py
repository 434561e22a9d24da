"""What is replaced in Triton's interpreter, and how it is put back.

The interpreter executes a kernel by calling methods of its ``InterpreterBuilder``: ``create_add``, ``create_load``,
and about a hundred others, each a line of numpy. This package replaces some of them, one by one, with::

    @replaces("create_add")
    def add(builder, lhs, rhs): ...

A replacement that does not understand its operands calls ``stock["create_add"]``.
"""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable)

replacements: dict[str, Callable] = {}
stock: dict[str, Callable] = {}  # the interpreter's own methods, while they are replaced

_ABSENT = object()
_undo: list[tuple[Any, str, Any]] = []


def replaces(*names: str) -> Callable[[Function], Function]:
    """Decorates a function that stands in for methods of the interpreter's builder while the package is enabled."""

    def register(function: Function) -> Function:
        for name in names:
            replacements[name] = function
        return function

    return register


def put(owner: Any, name: str, value: Any) -> None:
    """Set an attribute so that :func:`restore` can take it back."""
    _undo.append((owner, name, vars(owner).get(name, _ABSENT)))
    setattr(owner, name, value)


def install(builder_class: type) -> None:
    """Replace the methods of the builder's class."""
    for name, function in replacements.items():
        own = vars(builder_class).get(name)
        if own is not None:
            stock[name] = own
        put(builder_class, name, function)


def restore() -> None:
    """Take back every :func:`put`, newest first."""
    while _undo:
        owner, name, old = _undo.pop()
        if old is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, old)
    stock.clear()
