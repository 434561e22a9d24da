"""The faults themselves: whether each can still be planted, and what the script says of one. The check that tests catch
them takes half an hour: ``make mutation``."""

import pytest

from pytriton_llama.runtime import interpreted
from tests.mutation import __main__ as mutation
from tests.mutation.fault import ROOT, Fault
from tests.mutation.table import FAULTS

PACKAGE = ROOT / "pytriton_llama"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_none_is_stale(fault):
    """Catches a fault whose place in the source has changed, one that changes nothing, and a test that is gone."""
    assert fault.fits(PACKAGE), f"{fault.file} does not hold its old text once"
    assert fault.old != fault.new
    for test in fault.tests.split():
        file, *names = test.split("::")
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert names and all(f"def {name}(" in source or f"class {name}:" in source for name in names), test


def test_names_are_different():
    """Catches a fault that stands there twice."""
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len({f.what for f in FAULTS}) == len(FAULTS)


ASKS = 'if not os.environ.get("TRITON_INTERPRET") and not _torch_sees_gpu():'
TEST = "test_runtime.py::test_what_the_user_set_stays"


@pytest.mark.skipif(not interpreted(), reason="what the tests of the example need")
@pytest.mark.parametrize(
    ("old", "new", "tests", "verdict"),
    [
        (ASKS, "if not _torch_sees_gpu():", TEST, "caught"),
        (ASKS, f"{ASKS}  # nothing changes", TEST, "survived"),
        (ASKS, "if not _torch_sees_gpu():", f"{TEST}_not", "no verdict"),
        (ASKS, "if not _torch_sees_gpu()", TEST, "no verdict"),
        ("no such text", "", TEST, "stale"),
    ],
    ids=["caught", "survived", "no such test", "a syntax error", "stale"],
)
def test_verdicts(old, new, tests, verdict):
    """Catches a test that is not there, or cannot start, taken for one that fails; and a fault in the checkout."""
    before = (PACKAGE / "runtime.py").read_text(encoding="utf-8")
    assert mutation.judge(Fault("runtime.py", "a fault", old, new, tests))[0] == verdict
    assert (PACKAGE / "runtime.py").read_text(encoding="utf-8") == before
