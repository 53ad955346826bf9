"""docs/reliability.md is of today's promises, and each of them names tests that are there."""

import ast
from pathlib import Path

import pytest

from benchmarks.reliability import PAGE, PROMISES, line_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("test", sorted({test for promise in PROMISES for test in promise.tests.split()}))
def test_a_promises_test_is_there(test):
    file, _, name = test.partition("::")
    functions = [
        node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)
    ]
    assert name in functions if name else any(found.startswith("test_") for found in functions)


@pytest.mark.skipif(not (ROOT / PAGE).exists(), reason="`make reliability` writes it")
def test_the_page_has_a_line_with_a_figure_for_every_promise_and_no_other():
    table = (ROOT / PAGE).read_text().split("\n|---|---|---|\n")[1].partition("\n\n")[0].splitlines()
    assert [line.rpartition("| ")[0] + "| " for line in (row.removesuffix(" |") for row in table)] == [
        line_of(promise) for promise in PROMISES
    ]
    assert all(int(line.split("| ")[3].split()[0].replace(",", "")) > 0 for line in table)
