"""Over every file that the product reads: whatever is in its place, one line and nothing else happens.

A refusal (ValueError; exit code 2 on the command line) comes within two seconds and without a gigabyte. What is taken
is what the file says; where a digest is kept, it is what was written. Counts go to docs/reliability.md.
"""

import pytest
from damage import JSON_TEXTS, YAML_TEXTS, bounded, is_one_line, state, try_all
from kinds import GOODS, KINDS, experiment

from attndistill.cli import main

LEAST = 20  # inputs of a kind


@pytest.fixture(scope="module", autouse=True)
def _goods(tmp_path_factory) -> None:
    GOODS.folder = tmp_path_factory.mktemp("goods") / "all"


def test_there_are_more_than_600_malformed_files():
    assert len(KINDS) * LEAST > 600


@pytest.mark.parametrize("name", KINDS)
def test_a_malformed_file_gives_one_line_or_what_it_says_and_nothing_else(name, tmp_path, monkeypatch, record_property):
    monkeypatch.chdir(tmp_path)
    count = try_all(KINDS[name], tmp_path / "files")
    record_property(f"malformed: {name}", count.tried)
    record_property(f"refused: {name}", count.refused)
    assert count.tried >= LEAST
    assert count.refused >= LEAST // 2 or KINDS[name].lenient


@pytest.mark.parametrize("file", ["params.yaml", "rows.yaml"])
def test_on_the_command_line_it_is_one_line_and_exit_code_2(file, tmp_path, capsys, record_property):
    path, tried = experiment(file)(tmp_path), 0
    for name, text in (YAML_TEXTS | JSON_TEXTS | {"null": "a: null"}).items():
        path.write_text(text)
        refused_by_main(["config", "--experiment", str(tmp_path)], f"{file}, {name}", capsys)
        tried += 1
    record_property(f"malformed: {file}, on the command line", tried)


def test_a_malformed_setting_on_the_command_line_is_one_line_and_exit_code_2(
    tmp_path, monkeypatch, capsys, record_property
):
    experiment("rows.yaml")(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = state(tmp_path)
    for name, text in YAML_TEXTS.items():
        key, _, value = text.partition(": ")
        value = value if key in ("row", "trials", "timeout") and "\n" not in text else text
        refused_by_main(["config", "--distill.lambda", value], f"--distill.lambda, {name}", capsys)
    assert state(tmp_path) == before
    record_property("malformed: --section.key", len(YAML_TEXTS))


def refused_by_main(words, what, capsys) -> None:
    with bounded(what):
        code = main(words)
    said = capsys.readouterr()
    assert code == 2, f"{what}: {code} {said.err}"
    assert said.err.startswith("attndistill: "), what
    is_one_line(said.err.rstrip("\n"), what)
    assert said.out == "", what
