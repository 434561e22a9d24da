"""Chat templates for checkpoints that lack one, chosen by the control tokens that the vocabulary has.

Llama 2's as Meta published it (llama/generation.py), Llama 3's (the model card's header format) and ChatML.
"""

from collections.abc import Set

LLAMA2 = """\
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- for message in (messages[1:] if system is not none else messages) %}
    {%- if message.role != ('assistant' if loop.index0 % 2 else 'user') %}
        {{- raise_exception('the roles must be user and assistant in turn, after at most one system message') }}
    {%- endif %}
    {%- if message.role == 'assistant' %}
        {{- ' ' + message.content | trim + ' </s>' }}
    {%- else %}
        {{- '<s>[INST] ' }}
        {%- if loop.first and system is not none %}
            {{- ('<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message.content) | trim }}
        {%- else %}
            {{- message.content | trim }}
        {%- endif %}
        {{- ' [/INST]' }}
    {%- endif %}
{%- endfor %}"""

LLAMA3 = """\
{{- '<|begin_of_text|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"""

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}"""


def choose(controls: Set[str]) -> str:
    """The template whose control tokens these are; empty where none is.

    Llama 2 has nothing but begin- and end-of-text; others that have these two and more are not taken for it.
    """
    if {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"} <= controls:
        return LLAMA3
    if {"<|im_start|>", "<|im_end|>"} <= controls:
        return CHATML
    if {"<s>", "</s>"} == controls - {"<unk>", "<pad>"}:
        return LLAMA2
    return ""
