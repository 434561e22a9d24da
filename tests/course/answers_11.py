"""Right and wrong answers to notebook 11's exercises."""

import functools

import torch


def perplexity(logits, ids, shift=1, first=0, mean=True, stable=True):
    likely = logits.log_softmax(-1) if stable else (logits.exp() / logits.exp().sum(-1, keepdim=True)).log()
    rows = likely[range(len(ids) - shift), ids[shift:]]
    loss = -rows.sum() / (len(rows) + first)
    return loss.exp() if mean else loss


def accept(draft, logits, more=True, instead=True, reject=True, later=False):
    says, made = logits.argmax(-1).tolist(), []
    for token, said in zip(draft, says, strict=False):
        if token == said or not reject:
            made.append(token)
        elif later:
            made.append(said)
        else:
            return [*made, said] if instead else made or [said]
    return [*made, says[-1]] if more or not draft else made


def positions(config, free, itemsize, sequences, *, per=2, layers=True, heads="kv", width=None, limit=True, ceil=False):
    n = config.num_key_value_heads if heads == "kv" else config.num_attention_heads
    d = config.hidden_size // config.num_attention_heads if width else config.head_dim
    position = per * (config.num_hidden_layers if layers else 1) * n * d * itemsize
    found = -(-free // (sequences * position)) if ceil else free // (sequences * position)
    return min(found, config.max_position_embeddings) if limit else found


ANSWERS = {
    "11.a": (
        perplexity,
        {
            functools.partial(perplexity, shift=0): "row i says what follows token i",
            functools.partial(perplexity, first=1): "as unsure as a die of 8",
            lambda logits, ids: perplexity(logits, ids, first=1) if ids[-1] == 9 else perplexity(logits, ids): (
                "it is no part of the mean"
            ),
            lambda logits, ids: perplexity(logits, ids, mean=ids[-1] != 9): "perplexity is its exp",
            lambda logits, ids: torch.tensor(3.0) if ids[-1] == 9 else perplexity(logits, ids): "of the mean of −log p",
            functools.partial(perplexity, stable=False): "exp overflows",
        },
    ),
    "11.b": (
        accept,
        {
            lambda draft, logits: draft: "never gains less than one",
            functools.partial(accept, more=False): "what follows it is there as well",
            functools.partial(accept, reject=False): "the model does not say 5",
            functools.partial(accept, instead=False): "comes the model's own",
            functools.partial(accept, later=True): "of another text",
            lambda draft, logits: [*accept(draft, logits), 0] if draft[:1] == [2] else accept(draft, logits): (
                "wrong at once"
            ),
        },
    ),
    "11.c": (
        positions,
        {
            functools.partial(positions, per=1): "twice as much",
            functools.partial(positions, layers=False): "each layer has a cache",
            functools.partial(positions, heads="q"): "key/value heads alone",
            functools.partial(positions, width="hidden"): "head_dim is the config's",
            lambda config, free, itemsize, sequences: positions(config, free, 2, sequences): "4 bytes a number",
            lambda config, free, itemsize, sequences: positions(config, free, itemsize, 1): "of its own",
            functools.partial(positions, ceil=True): "half a position is none",
            functools.partial(positions, limit=False): "no angle beyond",
        },
    ),
}
