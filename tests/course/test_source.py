from pytriton_llama.course import same_kernel
from tests.course.kernels import racing_kernel, scale_kernel, scale_kernel_reformatted


def test_formatting_is_no_difference(capsys):
    """Catches names, docstrings, comments and line breaks compared."""
    assert same_kernel(scale_kernel_reformatted, scale_kernel)
    assert capsys.readouterr().out == "scale_kernel  the same kernel\n"


def test_another_kernel_is_told(capsys):
    """Catches a comparison of arguments alone, which these two share; and details without the lines that differ."""
    verdict = same_kernel(racing_kernel, scale_kernel)
    assert not verdict
    assert capsys.readouterr().out == "scale_kernel  caught: another kernel\n"
    verdict.details()
    assert "-    mask = offs < n" in capsys.readouterr().out
