"""How fast each operation is, beside its peers: ``pytriton-llama bench``.

One file an operation holds its :class:`~pytriton_llama.bench.case.Case`. ``harness`` checks and times a case's
contenders side by side, ``results`` keeps what was measured as CSV, ``plot`` and ``figures`` show it. Only ``timing``
touches a GPU.
"""
