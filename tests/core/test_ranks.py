"""What a launcher has set: all of it, or nothing."""

import pytest

from attndistill.core.ranks import ranks_of_environment

WHOLE = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)


def put(monkeypatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_a_process_without_a_launcher_is_the_only_one(monkeypatch):
    assert ranks_of_environment() == (0, 1)
    put(monkeypatch, MASTER_ADDR="node", RANK="")
    assert ranks_of_environment() == (0, 1)


def test_a_launchers_environment_says_which_rank_this_is(monkeypatch):
    put(monkeypatch, **WHOLE)
    assert ranks_of_environment() == (3, 4)


@pytest.mark.parametrize("left", WHOLE)
def test_an_environment_that_lacks_one_variable_is_refused_naming_it(monkeypatch, left):
    put(monkeypatch, **{name: value for name, value in WHOLE.items() if name != left})
    with pytest.raises(ValueError, match=rf"but {left} not set; allowed: all of them \(start with torchrun\), or none"):
        ranks_of_environment()


@pytest.mark.parametrize("alone", ["RANK", "LOCAL_RANK", "WORLD_SIZE"])
def test_one_variable_alone_is_refused(monkeypatch, alone):
    put(monkeypatch, **{alone: "1"})
    with pytest.raises(ValueError, match=rf"^{alone} is 1, but .* not set") as refused:
        ranks_of_environment()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [{"RANK": "4"}, {"RANK": "-1"}, {"RANK": "x"}, {"WORLD_SIZE": "0"}, {"WORLD_SIZE": "2.0"}, {"LOCAL_RANK": "4"}],
)
def test_numbers_that_do_not_fit_are_refused(monkeypatch, wrong):
    put(monkeypatch, **WHOLE | wrong)
    with pytest.raises(ValueError, match=r"allowed: whole numbers, 0 <= LOCAL_RANK <= RANK < WORLD_SIZE"):
        ranks_of_environment()
