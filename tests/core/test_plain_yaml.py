"""What DVC wrote is read by another parser than what people write: both find the same."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from attndistill.core import plain_yaml
from attndistill.core.plain_yaml import BY_DVC, read_plain_yaml

ROOT = Path(__file__).parents[2]
WORDS = ("on", "yes", "~", "", "0x10", "012", "0o7", "1_000", "1:30", "2001-01-01", "1e3", ".inf", "1.5", "true", "'on'", "a b", "|\n  x")  # fmt: skip # noqa: E501
BY_PEOPLE = {
    "an anchor": "a: &x 1\nb: *x",
    "a tag": 'a: !!int "3"',
    "a merge": "b: {<<: {a: 1}}",
    "a list for a key": "? [a]\n: b",
    "a number for a key": "1: 2",
}


@pytest.fixture
def no_other_parser(monkeypatch):
    """What asks for ruamel's parser of whole texts fails."""
    monkeypatch.setattr(YAML, "compose", lambda *_: pytest.fail("the slow parser was asked"))


@pytest.mark.parametrize("file", sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("**/dvc.lock")))
def test_every_lock_is_read_by_libyaml_as_by_the_parser_of_yaml_1_2(file, no_other_parser):
    expected = YAML(typ="safe", pure=True).load((ROOT / file).read_text(encoding="utf-8"))
    plain_yaml._parsed.cache_clear()
    assert read_plain_yaml(ROOT / file, BY_DVC) == expected


@pytest.mark.parametrize("word", WORDS)
def test_words_mean_what_they_mean_in_yaml_1_2(word):
    text = f"key: {word}\nlist:\n- {word}\n"
    assert plain_yaml.plain_yaml(text, "here", BY_DVC) == plain_yaml.plain_yaml(text, "here")


@pytest.mark.parametrize("what", BY_PEOPLE)
def test_what_dvc_does_not_write_is_left_to_the_other_parser(what):
    found, expected = (_read(BY_PEOPLE[what], most) for most in (BY_DVC, plain_yaml.BY_HAND))
    assert found == expected


@pytest.mark.parametrize("text", ["[1", "a: 1\na: 2", "--- a\n--- b", f"a: {'1' * 400}", f"a: {'[' * 50}{']' * 50}"])
def test_a_fault_is_told_in_the_same_words(text):
    assert isinstance(_read(text, BY_DVC), str)
    assert _read(text, BY_DVC) == _read(text, plain_yaml.BY_HAND)


def _read(text, most):
    try:
        return plain_yaml.plain_yaml(text, "here", most)
    except ValueError as error:
        return str(error)
