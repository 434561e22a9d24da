"""Prompts in, text out: the class that users hold."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Generator, Sequence
from pathlib import Path
from typing import Any

import torch

from pytriton_llama import kernels as triton_kernels
from pytriton_llama import reference
from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import checkpoint, tokenizer
from pytriton_llama.llama.answer import Answer, Generation
from pytriton_llama.llama.config import LlamaConfig, read_json
from pytriton_llama.llama.device import choose
from pytriton_llama.llama.engine import Engine
from pytriton_llama.llama.entry import telling_damage
from pytriton_llama.llama.fetch import resolve
from pytriton_llama.llama.model import LlamaModel
from pytriton_llama.llama.sampling import Options
from pytriton_llama.llama.shapes import SHAPES
from pytriton_llama.llama.stream import Stream, in_thread

Prompt = str | list[int]


class Llama:
    """A Llama with its tokenizer, ready to generate. Made by :meth:`from_pretrained`, or by :meth:`from_config` with
    random weights and no tokenizer."""

    def __init__(self, model: LlamaModel, tokenizer: tokenizer.Tokenizer | None, name: str = "Llama") -> None:
        self.model, self._tokenizer, self.name = model, tokenizer, name
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
        """Load a checkpoint in Hugging Face's layout, its weights in floating point or as ``pytriton-llama quantize``
        and ``import --keep-quantized`` pack them.

        Args:
            path_or_name: a folder, a GGUF file, or a name that ``pytriton-llama fetch`` knows; what is not in the cache
                yet is brought there on first use.
            device: "cuda" or "cpu"; default: where the kernels run in this process.
            dtype: "float32", "float16" or "bfloat16"; default: bfloat16 on a GPU that has it, else float16 there,
                float32 on a CPU. Packed weights stay packed; it is the type of all else.
            kernels: "triton" (compiled on a GPU, interpreted on a CPU), "torch" (the oracle in plain torch), or
                "auto": Triton wherever this process can run it.
            progress: show a progress bar while weights load.

        Raises:
            LlamaError: a checkpoint that is missing, broken or no Llama; a device or dtype that cannot be had.
        """
        placement = choose(device, dtype, kernels)
        folder = resolve(path_or_name)
        with telling_damage(folder):
            config = LlamaConfig.from_folder(folder)
            weights = checkpoint.load(folder, config, placement.device, placement.dtype, progress=progress)
            speaks = tokenizer.load(folder, config)
        ops = triton_kernels if placement.kernels == "triton" else reference
        return cls(LlamaModel(config, weights, ops), speaks, folder.name)

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any] | str | Path,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        kernels: str = "auto",
        seed: int = 0,
    ) -> Llama:
        """A model of the given shape with random weights, packed ones where the config has a ``quantization_config`` as
        ``pytriton-llama quantize`` writes it: for measuring, not for reading. It takes and gives token ids.

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
        name = "a config" if isinstance(config, dict) else str(config)
        return cls(LlamaModel(shape, weights, ops), None, f"random weights of {name}")

    def __repr__(self) -> str:
        parameters = sum(map(math.prod, checkpoint.expected_shapes(self.config).values()))
        kernels = "Triton" if self.model.ops is triton_kernels else "torch"
        dtype = str(self.model.dtype).removeprefix("torch.")
        stored = f"{self.config.quantization}, computed in {dtype}" if self.config.quantization else dtype
        return f"Llama({self.name}: {parameters:,} parameters, {stored} on {self.model.device}, kernels in {kernels})"

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

    def perplexity(self, text: Prompt) -> float:
        """exp of the mean negative log-likelihood of each token of a text, or of token ids, given those before it.

        Nothing predicts the first token. A text longer than the context is cut into pieces of the context's length,
        which know nothing of each other.

        Raises:
            LlamaError: a text of fewer than two tokens, a token id outside the vocabulary.
        """
        ids = self._ids(text)
        if len(ids) < 2:
            raise LlamaError(f"the text has {len(ids)} tokens; perplexity needs at least 2")
        context, total = self.config.max_position_embeddings, 0.0
        for start in range(0, len(ids), context):
            piece = ids[start : start + context]
            self._check_prompt(piece)
            total -= float(self.model.log_likelihoods(torch.tensor(piece, device=self.model.device)).double().sum())
        return math.exp(total / (len(ids) - math.ceil(len(ids) / context)))

    def generate(
        self,
        prompts: Prompt | list[str] | list[list[int]],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int = 0,
        logprobs: bool = False,
    ) -> Generation | list[Generation]:
        """Continue one prompt, or a list of them together.

        Args:
            prompts: text or token ids, or a list of either; no padding is attended to.
            max_new_tokens: for each prompt; it ends earlier where it stops or when the context is full.
            temperature, top_k, top_p, min_p, repetition_penalty: see
                :class:`~pytriton_llama.llama.sampling.Sampling`; the default is greedy.
            stop: None: the text ends at the checkpoint's end-of-text token. Strings: also before the first of them.
                An empty list: it ends at nothing.
            seed: prompt i draws with seed ``seed + i``, the same tokens in any batch.
            logprobs: whether each :class:`Generation` has the log-probabilities of its tokens.

        Returns:
            One :class:`Generation`, or a list of them for a list of prompts.

        Raises:
            LlamaError: an empty prompt, one longer than the context, a token id outside the vocabulary, an option
                outside its range, a request that does not fit in the free memory.
        """
        one = isinstance(prompts, str) or bool(prompts and isinstance(prompts[0], int))
        ids = [self._encode(p) for p in ([prompts] if one else prompts)]  # type: ignore[arg-type]
        options = Options(
            temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens, stop, seed, logprobs
        )  # fmt: skip
        answers = [self._answer(options, prompt) for prompt in ids]
        for _ in self._steps(ids, options, answers):
            pass
        done = [answer.generation() for answer in answers]
        return done[0] if one else done

    def stream(self, prompt: Prompt, **options) -> Stream:
        """:meth:`generate` for one prompt, yielding text as it is made; options as there."""
        chosen, ids = Options(**options), self._encode(prompt)
        answer = self._answer(chosen, ids)
        return Stream(self._steps([ids], chosen, [answer]), answer, as_text=self._tokenizer is not None)

    def astream(self, prompt: Prompt, **options) -> AsyncIterator[Any]:
        """:meth:`stream` for ``async for``: a worker thread makes the text, and cancelling ends it."""
        return in_thread(self.stream(prompt, **options))

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
        ids = self._ids(prompt)
        self._check_prompt(ids)
        return ids

    def _ids(self, prompt: Prompt) -> list[int]:
        return self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)

    def _check_prompt(self, ids: list[int]) -> None:
        context, vocab_size = self.config.max_position_embeddings, self.config.vocab_size
        if not ids:
            raise LlamaError("the prompt is empty; it needs at least one token")
        if len(ids) > context:
            raise LlamaError(f"the prompt has {len(ids)} tokens; the model's context is {context}")
        if not 0 <= min(ids) <= max(ids) < vocab_size:
            raise LlamaError(f"the prompt has a token id outside the vocabulary of {vocab_size}")

    def _answer(self, options: Options, prompt: list[int]) -> Answer:
        # Stop strings need a tokenizer: the property raises where there is none.
        speaks = self.tokenizer if options.stop_strings else self._tokenizer
        return Answer(speaks.stream().after(prompt) if speaks else None, options.stop_strings, options.logprobs)

    def _steps(self, prompts: list[list[int]], options: Options, answers: list[Answer]) -> Generator[None, None, None]:
        """Let the answers grow by a token a step until all have ended."""
        if not prompts:
            return
        # What is named last needs no place in the cache.
        context = self.config.max_position_embeddings
        limits = [min(context, len(ids) + options.max_new_tokens - 1) for ids in prompts]
        end = self.config.eos_token_ids if options.eos else ()
        steps = self.engine.run(prompts, limits, options, options.seed, options.eos, options.logprobs)
        with contextlib.closing(steps):
            for made, (tokens, logprobs) in enumerate(steps, start=1):
                for i, answer in enumerate(answers):
                    if answer.finish_reason:
                        continue
                    if tokens[i] in end:
                        answer.end("stop")
                    else:
                        last = len(prompts[i]) + made > limits[i]
                        answer.add(tokens[i], logprobs[i] if logprobs else None, last)
                yield
                if all(answer.finish_reason for answer in answers):
                    return


def _config_values(name_or_path: str | Path) -> dict[str, Any]:
    if str(name_or_path) in SHAPES:
        return SHAPES[str(name_or_path)]
    path = Path(name_or_path)
    if not path.exists():
        raise LlamaError(f"config: {name_or_path} is neither a file nor a folder, nor one of {', '.join(SHAPES)}")
    return read_json(path / "config.json" if path.is_dir() else path)
