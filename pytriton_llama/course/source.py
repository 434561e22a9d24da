"""Whether a notebook's kernel is the package's."""

import ast
import difflib
import inspect
import textwrap
from typing import Any

from pytriton_llama.course.check import Verdict, Verdicts


def same_kernel(notebook_kernel: Any, package_kernel: Any) -> Verdicts:
    """Compare two jit functions' code: arguments and statements; not names, comments, docstrings and line breaks.

    Prints ``the same kernel`` or ``caught: another kernel``; ``.details()`` shows the lines that differ.
    """
    ours, theirs = _lines(notebook_kernel), _lines(package_kernel)
    name = package_kernel.fn.__name__
    if ours == theirs:
        return Verdicts(Verdict(name, True, "the same kernel"))
    diff = difflib.unified_diff(theirs, ours, "package", "notebook", n=0, lineterm="")
    return Verdicts(Verdict(name, False, "another kernel", "\n" + "\n".join(diff)))


def _lines(kernel: Any) -> list[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(kernel, "fn", kernel)))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    tree.name, tree.decorator_list = "kernel", []
    if ast.get_docstring(tree) is not None:
        del tree.body[0]
    return ast.unparse(tree).splitlines()
