"""The table of faults is whole: no request without a step, no cell without a result."""

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest
from aiokafka.protocol.api import Request, RequestStruct

import app.engine
from app.ingest import producer, write_fence
from local.places import PROJECT
from tests.faults import table
from tests.faults.steps import STEPS, WITHOUT_STEPS, Step


def modules() -> Iterator[ModuleType]:
    """Yield the modules that ask brokers: the engine's and those of the write path."""
    yield from (producer, write_fence)
    for found in pkgutil.iter_modules(app.engine.__path__, "app.engine."):
        yield importlib.import_module(found.name)


def requests() -> set[str]:
    """Return the kinds of request that they can send."""
    return {
        name.strip("_")
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, RequestStruct | Request)
    } - {"Packed", "RequestStruct"}


def test_every_request_of_engine_and_write_path_is_a_step_or_says_why_not() -> None:
    assert requests() - {step.request for step in STEPS.values()} - WITHOUT_STEPS.keys() == set()


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
def test_every_step_is_a_call_of_the_product(step: Step) -> None:
    assert callable(getattr(pkgutil.resolve_name(step.owner), step.attribute))


def functions() -> set[str]:
    """Return the qualified names of the product's functions and methods."""
    defined = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = set()
    for path in (PROJECT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, defined):
                found.add(node.name)
            elif isinstance(node, ast.ClassDef):
                found |= {
                    f"{node.name}.{each.name}" for each in node.body if isinstance(each, defined)
                }
    return found


def test_every_step_is_within_a_function_of_the_product() -> None:
    """Else a fault would never strike, and its cell would show what happens without it."""
    assert {step.within for step in STEPS.values() if step.within} - functions() == set()


def test_every_cell_was_tried_and_the_page_shows_it() -> None:
    happened = table.read()
    assert {name: list(cells) for name, cells in happened.items()} == {
        name: step.kinds for name, step in STEPS.items()
    }
    assert table.PAGE.read_text().endswith(f"{table.MARK}\n{table.render(happened)}")
