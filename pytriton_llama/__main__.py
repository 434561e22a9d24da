"""``python -m pytriton_llama`` is the ``pytriton-llama`` program."""

from pytriton_llama.cli import main

main()
