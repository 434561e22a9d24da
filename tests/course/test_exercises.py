"""Each checker passes the solution, and fails plausible wrong answers, each for its own reason.

``ANSWERS`` holds, by exercise, the solution and the wrong answers with a part of what must be printed. Whoever writes
an exercise adds its answers in a file ``answers_NN.py`` beside this one.
"""

import importlib
from pathlib import Path

import pytest

from pytriton_llama.course import exercises, grade

ANSWERS: dict[str, tuple] = {}
for file in sorted(Path(__file__).parent.glob("answers_*.py")):
    ANSWERS |= importlib.import_module(f"tests.course.{file.stem}").ANSWERS


@pytest.mark.parametrize("key", ANSWERS)
def test_the_solution_passes(key, capsys):
    """Catches a checker that asks for more than the text of the exercise."""
    grade(ANSWERS[key][0], key)
    assert capsys.readouterr().out.startswith(f"☑ {key} ")


@pytest.mark.parametrize(
    ("key", "wrong", "reason"), [(key, *pair) for key, (_, wrong) in ANSWERS.items() for pair in wrong.items()]
)
def test_a_wrong_answer_fails_for_its_reason(key, wrong, reason, capsys):
    """Catches a checker that lets a plausible mistake pass, or gives it another mistake's hint."""
    grade(wrong, key)
    out = capsys.readouterr().out
    assert out.startswith(f"☐ {key} ") and reason in out


@pytest.mark.parametrize("key", ANSWERS)
@pytest.mark.parametrize("stub", [lambda *args: None, lambda *args: exec("raise NotImplementedError")])
def test_a_stub_is_not_solved_yet(key, stub, capsys):
    """Catches a stub that raises in its notebook, or is blamed for a mistake."""
    grade(stub, key)
    assert capsys.readouterr().out.endswith("not solved yet\n")


def test_every_exercise_has_answers():
    """Catches a checker that was never tried; three wrong answers at least."""
    for key in ANSWERS:
        exercises._exercise(key)
    for module in Path(exercises.__file__).parent.glob("e[0-9][0-9]_*.py"):
        importlib.import_module(f"pytriton_llama.course.exercises.{module.stem}")
    assert exercises.EXERCISES.keys() == ANSWERS.keys()
    for key, (_, wrong) in ANSWERS.items():
        assert len(wrong) >= 3 and len(set(wrong.values())) == len(wrong), key


def test_an_answer_that_raises(capsys):
    """Catches a grade that ends the notebook on an answer's exception, and one that hides what it says."""
    grade(lambda *args: [][1], "00.a")
    assert "it raises IndexError: list index out of range" in capsys.readouterr().out


def test_an_unknown_exercise():
    """Catches a mistyped key that would be graded as solved."""
    with pytest.raises(KeyError, match="no exercise"):
        grade(lambda: 1, "00.z")
