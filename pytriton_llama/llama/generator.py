"""Prompts in, text out: the class that users hold."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytriton_llama import kernels as triton_kernels
from pytriton_llama import reference
from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import checkpoint, tokenizer
from pytriton_llama.llama.config import LlamaConfig, read_json
from pytriton_llama.llama.device import choose
from pytriton_llama.llama.engine import Engine
from pytriton_llama.llama.fetch import resolve
from pytriton_llama.llama.model import LlamaModel
from pytriton_llama.llama.sampling import Sampling
from pytriton_llama.llama.shapes import SHAPES

Prompt = str | list[int]


@dataclass(frozen=True)
class Generation:
    """A finished answer.

    Attributes:
        text: ``token_ids`` decoded, without control tokens; None where the model has no tokenizer.
        token_ids: the new tokens, without the one that ended the text.
        finish_reason: "stop" (the model ended its text) or "length" (``max_new_tokens``, or the context is full).
    """

    text: str | None
    token_ids: list[int]
    finish_reason: str


class Stream(Iterator[Any]):
    """Pieces of text as they are made; joined they are the text. Token ids where the model has no tokenizer.
    ``close()`` ends it early.

    Attributes:
        token_ids: the tokens made so far.
        finish_reason: None until the stream has ended, then as :class:`Generation`'s.
    """

    def __init__(self, steps: Generator[list[Step], None, None], decoder: tokenizer.Stream | None) -> None:
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self._steps = steps
        self._pieces = self._decode(decoder)

    def _decode(self, decoder: tokenizer.Stream | None) -> Iterator[str | int]:
        for ((_, token_id, finish_reason),) in self._steps:
            if token_id is not None:
                self.token_ids.append(token_id)
                if decoder is None:
                    yield token_id
                elif piece := decoder.step(token_id):
                    yield piece
            self.finish_reason = finish_reason
        if decoder is not None and (piece := decoder.flush()):
            yield piece

    def __next__(self) -> str | int:
        return next(self._pieces)

    def close(self) -> None:
        self._pieces = iter(())
        self._steps.close()


# Which prompt, its next token (None: the text ended without one), and why it ends here, if it does.
Step = tuple[int, int | None, str | None]


class Llama:
    """A Llama with its tokenizer, ready to generate. Made by :meth:`from_pretrained`, or by :meth:`from_config` with
    random weights and no tokenizer."""

    def __init__(self, model: LlamaModel, tokenizer: tokenizer.Tokenizer | None) -> None:
        self.model, self._tokenizer = model, tokenizer
        self.engine = Engine(model)

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        kernels: str = "auto",
        progress: bool = False,
    ) -> Llama:
        """Load a checkpoint in Hugging Face's layout.

        Args:
            path_or_name: a folder, or a name that ``pytriton-llama fetch`` knows; it is fetched on first use.
            device: "cuda" or "cpu"; default: where the kernels run in this process.
            dtype: "float32", "float16" or "bfloat16"; default: bfloat16 on a GPU that has it, else float16 there,
                float32 on a CPU.
            kernels: "triton" (compiled on a GPU, interpreted on a CPU), "torch" (the oracle in plain torch), or
                "auto": Triton wherever this process can run it.
            progress: show a progress bar while weights load.

        Raises:
            LlamaError: a checkpoint that is missing, broken or no Llama; a device or dtype that cannot be had.
        """
        placement = choose(device, dtype, kernels)
        folder = resolve(path_or_name)
        config = LlamaConfig.from_folder(folder)
        weights = checkpoint.load(folder, config, placement.device, placement.dtype, progress=progress)
        ops = triton_kernels if placement.kernels == "triton" else reference
        return cls(LlamaModel(config, weights, ops), tokenizer.load(folder, config))

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any] | str | Path,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        kernels: str = "auto",
        seed: int = 0,
    ) -> Llama:
        """A model of the given shape with random weights: for measuring, not for reading. It takes and gives token ids.

        Args:
            config: what a ``config.json`` says, the path of one or of its folder, or a shape's name: "llama-3.2-1b",
                "llama-3.1-8b".
            device, dtype, kernels: as :meth:`from_pretrained`'s.
            seed: of the weights.

        Raises:
            LlamaError: an unknown name, a config that is missing, broken or no Llama's; a device or dtype that cannot
                be had.
        """
        placement = choose(device, dtype, kernels)
        shape = LlamaConfig.from_dict(config if isinstance(config, dict) else _config_values(config))
        weights = checkpoint.random(shape, placement.device, placement.dtype, seed)
        ops = triton_kernels if placement.kernels == "triton" else reference
        return cls(LlamaModel(shape, weights, ops), None)

    @property
    def config(self) -> LlamaConfig:
        return self.model.config

    @property
    def tokenizer(self) -> tokenizer.Tokenizer:
        """Raises :class:`LlamaError` where the model has none."""
        if self._tokenizer is None:
            raise LlamaError("a model made from a config has no tokenizer: give it token ids")
        return self._tokenizer

    def logits(self, token_ids: list[int]) -> torch.Tensor:
        """float32 (length, vocab_size): row i scores what follows token i."""
        self._check_prompt(token_ids)
        return self.model.logits(torch.tensor(token_ids, device=self.model.device))

    def generate(
        self,
        prompts: Prompt | list[str] | list[list[int]],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Generation | list[Generation]:
        """Continue one prompt, or a list of them together.

        Args:
            prompts: text or token ids, or a list of either; no padding is attended to.
            max_new_tokens: for each prompt; it ends earlier at the checkpoint's end-of-text token or when the
                context is full.
            temperature, top_k, top_p: see :class:`~pytriton_llama.llama.sampling.Sampling`; the default is greedy.
            seed: prompt i draws with seed ``seed + i``, the same tokens in any batch.

        Returns:
            One :class:`Generation`, or a list of them for a list of prompts.

        Raises:
            LlamaError: an empty prompt, one longer than the context, a token id outside the vocabulary, a sampling
                value outside its range.
        """
        one = isinstance(prompts, str) or bool(prompts and isinstance(prompts[0], int))
        ids = [self._encode(p) for p in ([prompts] if one else prompts)]  # type: ignore[arg-type]
        made: list[list[int]] = [[] for _ in ids]
        reasons = [""] * len(ids)
        for steps in self._steps(ids, max_new_tokens, Sampling(temperature, top_k, top_p), seed):
            for index, token_id, finish_reason in steps:
                if token_id is not None:
                    made[index].append(token_id)
                reasons[index] = finish_reason or ""
        decode = self._tokenizer.decode if self._tokenizer else lambda _: None
        done = [Generation(decode(t), t, r) for t, r in zip(made, reasons, strict=True)]
        return done[0] if one else done

    def stream(
        self,
        prompt: Prompt,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Stream:
        """:meth:`generate` for one prompt, yielding text as it is made."""
        steps = self._steps([self._encode(prompt)], max_new_tokens, Sampling(temperature, top_k, top_p), seed)
        return Stream(steps, self._tokenizer.stream() if self._tokenizer else None)

    def chat(self, messages: str | list[dict[str, str]], **options) -> Generation:
        """The assistant's answer to a conversation; options as :meth:`generate`'s.

        Args:
            messages: what the user says, or a list of ``{"role": …, "content": …}``. The checkpoint's own chat
                template is used; what stands in a message never becomes a control token.
        """
        answer = self.generate(self.chat_prompt(messages), **options)
        assert isinstance(answer, Generation)
        return answer

    def chat_prompt(self, messages: str | list[dict[str, str]]) -> list[int]:
        """The token ids that :meth:`chat` continues; :meth:`stream` takes them too."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self.tokenizer.chat(messages)

    def _encode(self, prompt: Prompt) -> list[int]:
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        self._check_prompt(ids)
        return ids

    def _check_prompt(self, ids: list[int]) -> None:
        context, vocab_size = self.config.max_position_embeddings, self.config.vocab_size
        if not ids:
            raise LlamaError("the prompt is empty; it needs at least one token")
        if len(ids) > context:
            raise LlamaError(f"the prompt has {len(ids)} tokens; the model's context is {context}")
        if not 0 <= min(ids) <= max(ids) < vocab_size:
            raise LlamaError(f"the prompt has a token id outside the vocabulary of {vocab_size}")

    def _steps(
        self, prompts: list[list[int]], max_new_tokens: int, sampling: Sampling, seed: int
    ) -> Generator[list[Step], None, None]:
        """Each step's news: one entry for every prompt that had not ended before."""
        if max_new_tokens < 1:
            raise LlamaError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
        return self._run(prompts, max_new_tokens, sampling, seed)

    def _run(
        self, prompts: list[list[int]], max_new_tokens: int, sampling: Sampling, seed: int
    ) -> Generator[list[Step], None, None]:
        if not prompts:
            return
        context = self.config.max_position_embeddings
        # What is named last needs no place in the cache.
        limits = [min(context, len(ids) + max_new_tokens - 1) for ids in prompts]
        steps = self.engine.run(prompts, limits, sampling, seed)
        running = set(range(len(prompts)))
        with contextlib.closing(steps):
            for made, tokens in enumerate(steps, start=1):
                news: list[Step] = []
                for i in sorted(running):
                    if tokens[i] in self.config.eos_token_ids:
                        news.append((i, None, "stop"))
                    else:
                        news.append((i, tokens[i], "length" if len(prompts[i]) + made > limits[i] else None))
                running -= {i for i, _, finish_reason in news if finish_reason}
                yield news
                if not running:
                    return


def _config_values(name_or_path: str | Path) -> dict[str, Any]:
    if str(name_or_path) in SHAPES:
        return SHAPES[str(name_or_path)]
    path = Path(name_or_path)
    if not path.exists():
        raise LlamaError(f"config: {name_or_path} is neither a file nor a folder, nor one of {', '.join(SHAPES)}")
    return read_json(path / "config.json" if path.is_dir() else path)
