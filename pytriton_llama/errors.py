"""What a user did wrong, in one line."""


class LlamaError(Exception):
    """Bad input from outside: a file, a name, an option.

    The message is one line that says what was given and what is needed; the command line prints it and exits with
    code 2. A wrong *argument* to a kernel stays a ``ValueError`` or ``TypeError``, as in torch.
    """
