"""What a GGUF file holds, from the ``gguf`` package's reader, which believes whatever the file says of its own size."""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType

from pytriton_llama.errors import LlamaError

_MAX_VALUES = 1 << 22  # several times the strings and numbers of Llama 3's tokenizer


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata by key, and the reader's tensors by name, their data mapped and not yet read.

    Raises :class:`LlamaError`, without the path.
    """
    if not Path(path).is_file():
        raise LlamaError("no such file")
    try:
        reader = _BoundedReader(path)
        return {key: field.contents() for key, field in reader.fields.items()}, {t.name: t for t in reader.tensors}
    except Exception as error:  # the reader indexes into whatever bytes it is given
        raise LlamaError(f"not a readable GGUF file: {error}") from error


class _BoundedReader(GGUFReader):
    """Stops where a file ends, or promises more than a Llama has, instead of looping until memory is full."""

    _values = 0

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        self._expect(1)
        stop = int(offset) + int(count) * np.dtype(dtype).itemsize
        if stop > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data)}, before byte {stop}")
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type == GGUFValueType.ARRAY:
            self._expect(int(self._get(orig_offs + 4, np.uint64)[0]))  # the length, after the entries' type
        return super()._get_field_parts(orig_offs, raw_type)

    def _expect(self, count: int) -> None:
        self._values += count
        if self._values > _MAX_VALUES:
            raise ValueError(f"more than {_MAX_VALUES} values of metadata")
