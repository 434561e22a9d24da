"""A model to talk to, and to look into: a widget.

A thread writes the answer, so that the page can ask it to stop. A page without a running kernel shows the widget's text
alone.
"""

import html
import io
import threading
import time
from collections.abc import Iterable
from typing import Any

import ipywidgets
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from pytriton_llama import Llama
from pytriton_llama.course.figures import COLOURS
from pytriton_llama.course.inside import Inside
from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.sampling import Sampling

MOST_BARS = 8
WIDE = {"width": "26em"}
BESIDE = {"margin": "0 2em 0 0"}  # what comes to the right, or below where the page is narrow
LONG = {"description_width": "10em"}


def _slider(kind: type, name: str, value: float, first: float, last: float, **rest: Any) -> Any:
    return kind(value=value, min=first, max=last, description=name, style=LONG, layout=WIDE, **rest)


class Chat(ipywidgets.VBox):
    """A prompt, how tokens are drawn, the answer as it comes; then, for each of its tokens, what else was likely, and
    what a head of a layer attends to.

    Args:
        llama: a model with a tokenizer and a chat template.
        prompt: what stands in the box at first.
        max_new_tokens: where that slider starts.
    """

    def __init__(self, llama: Llama, prompt: str = "", max_new_tokens: int = 32) -> None:
        ints, floats = ipywidgets.IntSlider, ipywidgets.FloatSlider
        self.llama = llama
        self.inside: Inside | None = None  # of the last answer
        self.thread, self._stopping = threading.Thread(), threading.Event()
        self.prompt = ipywidgets.Textarea(prompt, layout={"width": "26em", "height": "5em"})
        self.temperature = _slider(floats, "temperature", 0.0, 0.0, 2.0, step=0.1)
        self.top_k = _slider(ints, "top-k (0: all)", 0, 0, 100)
        self.top_p = _slider(floats, "top-p", 1.0, 0.05, 1.0, step=0.05)
        self.seed = ipywidgets.BoundedIntText(0, 0, 2**31 - 1, description="seed", style=LONG, layout=WIDE)
        self.max_new_tokens = _slider(ints, "max_new_tokens", max_new_tokens, 1, 512)
        self.generate = ipywidgets.Button(description="generate", button_style="primary")
        self.stop = ipywidgets.Button(description="stop", disabled=True)
        self.answer, self.note = ipywidgets.HTML(layout={"max_width": "40em"}), ipywidgets.HTML()
        self.token = _slider(ints, "token", 0, 0, 0)
        self.layer = _slider(ints, "layer", 0, 0, llama.config.num_hidden_layers - 1)
        self.head = _slider(ints, "head", 0, 0, llama.config.num_attention_heads - 1)
        self.bars, self.attention = ipywidgets.HTML(), ipywidgets.Image(format="png")
        for widget, name in ((self, "chat"), (self.answer, "chat-answer"), (self.bars, "chat-bars")):
            widget.add_class(name)
        self.attention.add_class("chat-attention")
        self.looks = ipywidgets.HBox(
            [
                ipywidgets.VBox([self.token, self.bars], layout=BESIDE),
                ipywidgets.VBox([self.layer, self.head, self.attention]),
            ],
            layout={"flex_flow": "row wrap", "display": "none"},
        )
        asked = (self.temperature, self.top_k, self.top_p, self.seed, self.max_new_tokens)
        buttons = ipywidgets.HBox([self.generate, self.stop])
        controls = ipywidgets.VBox([self.prompt, *asked, buttons], layout=BESIDE)
        answer = ipywidgets.VBox([self.answer, self.note], layout={"flex": "1 1 18em"})
        super().__init__([ipywidgets.HBox([controls, answer], layout={"flex_flow": "row wrap"}), self.looks])
        self.generate.on_click(lambda _: self._start())
        self.stop.on_click(lambda _: self._stopping.set())
        self.token.observe(lambda _: self._show_bars(), names="value")
        for slider in (self.layer, self.head):
            slider.observe(lambda _: self._show_attention(), names="value")

    def __repr__(self) -> str:
        # The text/plain of the view, the same on every machine.
        return "Open this notebook in Jupyter to talk to the model"

    def _start(self) -> None:
        self.generate.disabled, self.stop.disabled = True, False
        self._stopping.clear()
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()

    def _write(self) -> None:
        self.answer.value, self.note.value, self.looks.layout.display = "", "…", "none"
        try:
            self._sampling = Sampling(self.temperature.value, self.top_k.value or None, self.top_p.value)
            prompt_ids = self.llama.chat_prompt(self.prompt.value)
            self._answer(prompt_ids)
        except LlamaError as error:
            self.note.value = html.escape(str(error))
        finally:
            self.generate.disabled, self.stop.disabled = False, True

    def _answer(self, prompt_ids: list[int]) -> None:
        options = vars(self._sampling) | {"seed": self.seed.value, "max_new_tokens": self.max_new_tokens.value}
        text, times = "", []
        with self.llama.stream(prompt_ids, **options) as stream:
            for piece in stream:
                text += piece
                times.append(time.perf_counter())
                self.answer.value = f'<div style="white-space: pre-wrap; line-height: 1.5">{html.escape(text)}</div>'
                # The first piece's time is the prompt's, and a piece may be several tokens.
                made = len(stream.token_ids)
                speed = f", {(made - 1) / (times[-1] - times[0]):.3g} tokens/s" if made > 1 < len(times) else ""
                self.note.value = f"{made} tokens{speed}"
                if self._stopping.is_set():
                    break
        if stream.token_ids:
            self._look(prompt_ids, stream.token_ids)

    def _look(self, prompt_ids: list[int], token_ids: list[int]) -> None:
        self.inside, self._start_of_answer = Inside(self.llama, prompt_ids + token_ids), len(prompt_ids)
        self.token.value, self.token.max = 0, len(token_ids) - 1
        self._show_bars()
        self._show_attention()
        self.looks.layout.display = "flex"

    def _shown(self, token_ids: Iterable[int]) -> list[str]:
        # repr: a space or a line break is to be seen; quotes are not part of it.
        return [repr(self.llama.tokenizer.decode([i]))[1:-1] or "·" for i in token_ids]

    def _show_bars(self) -> None:
        """What could have stood in the chosen token's place, and how likely each was to be drawn."""
        if self.inside is None:
            return
        place = self._start_of_answer + self.token.value
        chosen, scores = self.inside.token_ids[place], self.inside.logits[place - 1]
        # Greedy takes the likeliest whatever the temperature: at 1, bars are what the model itself says.
        sampling = self._sampling if self._sampling.temperature else Sampling(1.0)
        p = sampling.probabilities(scores).cpu()
        ids = p.topk(min(MOST_BARS, len(p))).indices.tolist()
        ids += [] if chosen in ids else [chosen]
        rows = [
            _bar(name, float(p[i]), float(p.max()), COLOURS[1] if i == chosen else COLOURS[0])
            for i, name in zip(ids, self._shown(ids), strict=True)
        ]
        self.bars.value = f'<table style="color: inherit">{"".join(rows)}</table>'

    def _show_attention(self) -> None:
        if self.inside is None:
            return
        weights = self.inside.attention(self.layer.value, self.head.value)
        title = f"layer {self.layer.value}, head {self.head.value}: a row is a token, and what it attends to"
        self.attention.value = attention_map(weights, self._shown(self.inside.token_ids), title)


def _bar(name: str, p: float, longest: float, colour: str) -> str:
    bar = f"width: {12 * p / longest:.2f}em; min-width: 1px; height: 1em; background: {colour}"
    return (
        f'<tr><td style="text-align: right"><code style="white-space: pre">{html.escape(name)}</code></td>'
        f'<td style="min-width: 12em"><div style="{bar}"></div></td><td>{p:.1%}</td></tr>'
    )


def attention_map(weights: torch.Tensor, tokens: list[str], title: str) -> bytes:
    """A PNG of (length, length) weights, tokens beside the rows where there is room for them."""
    figure = Figure(figsize=(7, 6.2), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot, which belongs to the main thread
    ax = figure.subplots()
    # Most attention goes to a few tokens: by its square root the rest can be seen.
    image = ax.imshow(weights.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    figure.colorbar(image, ax=ax, shrink=0.7)
    size = 8 if len(tokens) <= 40 else 6
    if len(tokens) <= 80:
        places = range(len(tokens))
        shown = [token.replace("$", r"\$") for token in tokens]
        ax.set_xticks(places, shown, rotation=90, fontsize=size)
        ax.set_yticks(places, shown, fontsize=size)
    ax.set_title(title, fontsize=10, loc="left")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
