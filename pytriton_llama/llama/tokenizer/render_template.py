"""Renders a chat template, somebody else's Jinja program, in a process of its own: this file, run as a script.

Reads from stdin a JSON object of ``source``, ``variables`` and the limits ``max_seconds``, ``max_bytes`` (of memory)
and ``max_characters``; writes one of ``text`` or ``error``. Jinja's sandbox keeps the template from everything but its
variables, the limits of the process keep it from running or growing for ever. Imports nothing of the package: it starts
in a tenth of a second.
"""

import json
import resource
import sys
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


def render(source: str, variables: dict[str, Any]) -> str:
    """As transformers does: the same settings, filters and functions."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment.from_string(source).render(variables)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    # Jinja's own escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def main() -> None:
    request = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (request["max_seconds"],) * 2)
    resource.setrlimit(resource.RLIMIT_AS, (request["max_bytes"],) * 2)
    try:
        text = render(request["source"], request["variables"])
        if len(text) > request["max_characters"]:
            raise TemplateError(f"it makes a text of more than {request['max_characters']} characters")
        reply = {"text": text}
    except MemoryError:
        reply = {"error": "it takes too much memory"}
    except Exception as error:  # a template can raise anything
        reply = {"error": str(error)[:300] or type(error).__name__}
    json.dump(reply, sys.stdout)


if __name__ == "__main__":
    main()
