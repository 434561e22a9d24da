"""What a user did wrong, in one line."""

_LONGEST = 1000  # characters


class LlamaError(Exception):
    """Bad input from outside: a file, a name, an option.

    The message is one line that says what was given and what is needed; the command line prints it and exits with
    code 2. A wrong *argument* to a kernel stays a ``ValueError`` or ``TypeError``, as in torch.
    """

    def __init__(self, message: str) -> None:
        # Names in it may come from a stranger's file: no line breaks, no terminal's control characters, no megabytes.
        line = " ".join(message[:_LONGEST].split())
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
