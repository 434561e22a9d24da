"""What the compiler refuses and the interpreter forgives, refused here as well.

A kernel that runs on a laptop should not fail to compile on a GPU for a reason that was visible on the laptop.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from triton.backends.nvidia.compiler import min_dot_size
from triton.compiler.code_generator import CodeGenerator
from triton.compiler.errors import UnsupportedLanguageConstruct
from triton.runtime import interpreter

from pytriton_llama.interpreter.patches import put


@cache
def launch_options() -> frozenset[str]:
    """Every keyword of a launch that some backend takes: ``num_warps``, ``num_stages``..."""
    from triton.backends.amd.compiler import HIPOptions
    from triton.backends.nvidia.compiler import CUDAOptions

    return frozenset({*CUDAOptions.__dataclass_fields__, *HIPOptions.__dataclass_fields__})


def check_keywords(given: Mapping[str, Any], parameters: Iterable[str]) -> None:
    """Raise KeyError, as a compiled launch does, for a keyword that is neither a parameter nor a launch option."""
    for name in given:
        if name not in parameters and name not in launch_options():
            raise KeyError(f"Keyword argument {name} was specified but unrecognised")


def check_source(function: Callable) -> None:
    """Raise UnsupportedLanguageConstruct for a statement that the compiler does not know, such as ``break``.

    Statements under a compile-time condition that is false are refused too, although the compiler never reads them.
    """
    try:
        lines, first = inspect.getsourcelines(function)
    except (OSError, TypeError):  # no source: the interpreter runs it as it is
        return
    source = textwrap.dedent("".join(lines))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and not hasattr(CodeGenerator, f"visit_{type(node).__name__}"):
            where = f"{inspect.getsourcefile(function)}:{first + node.lineno - 1}"
            raise UnsupportedLanguageConstruct(
                source, node, f"{where}: Triton has no {type(node).__name__.lower()!r} statement"
            )


def install() -> None:
    """Make ``tl.dot`` refuse what no tensor core takes: K below 16, or below 32 for 8-bit operands."""
    builder = interpreter.interpreter_builder
    put(builder, "codegen_fns", {**builder.codegen_fns, "min_dot_size": min_dot_size(None)})
