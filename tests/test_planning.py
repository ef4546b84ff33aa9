"""One of many questions: Ctrl-C that CP-SAT took for one of them ends them all."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from autopar import api, planning, search
from autopar.diagnose import Question, binding
from autopar.planning import answered, make_task, prepare
from autopar.relaxed import Left
from autopar.search import Task
from autopar.specs import Scenario

Build = Callable[..., Scenario]


def interrupted_from(number: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let CP-SAT take Ctrl-C in a question; returns the outcomes of all that are asked."""
    asked: list[Any] = []
    original = planning.optimise

    def optimise(*arguments: Any, **options: Any) -> Any:
        outcome = original(*arguments, **options)
        asked.append(replace(outcome, interrupted=len(asked) + 1 == number))
        return asked[-1]

    monkeypatch.setattr(planning, "optimise", optimise)
    return asked


def test_an_answer_is_the_optimum(document_scenario: Build) -> None:
    task = make_task(document_scenario())
    outcome = answered(task, prepare(task))
    assert outcome.status == "optimal"
    assert not outcome.interrupted


def test_an_interrupted_question_is_the_last(
    document_scenario: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each bound of `compare` is a question; the answer stands without them."""
    scenario = document_scenario()
    asked = interrupted_from(2, monkeypatch)
    found = api.compare(scenario, [])
    assert len(asked) == 2
    assert found.solution.interrupted
    assert found.solution.status == "optimal"
    assert found.bounds == {}
    assert [plan.name for plan in found.plans] == ["autopar"]


def test_what_binds_is_not_asked_on(
    document_scenario: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = document_scenario()
    task = make_task(scenario)
    vector = answered(task, prepare(task)).vector
    assert vector is not None
    asked = interrupted_from(1, monkeypatch)
    monkeypatch.setattr("autopar.diagnose.better_without", open_questions)
    with pytest.raises(KeyboardInterrupt):
        binding(Question(scenario, ()), task.oriented(vector), 10_000)
    assert len(asked) == 1


def open_questions(task: Task, names: Sequence[str], *_: object) -> dict[str, Left]:
    """Leave every question to CP-SAT."""
    return {name: Left(task, search.prepare(task)) for name in names}
