"""DVC's experiments beside each other: what differs, as many as fit, the others below."""

import pytest

from attndistill import compare as module
from attndistill.compare import Shown, compare, table
from attndistill.experiments import open_experiment


def experiments(count: int) -> list[Shown]:
    return [
        Shown(f"exp-{n}", {"distill.lambda": f"{n}", "seeds": "[0]"}, {"attndistill.knn_top1": f"8{n}.25 ± 1.5"})
        for n in range(count)
    ]


def test_what_is_the_same_everywhere_is_left_out():
    assert table(experiments(2), 120) == [
        "                            exp-0        exp-1",
        "distill.lambda                  0            1",
        "attndistill.knn_top1  80.25 ± 1.5  81.25 ± 1.5",
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_many_experiments_stay_within_the_screen_and_each_is_shown_once(width):
    lines = table(experiments(9), width)
    assert max(map(len, lines)) <= width
    heads = [name for line in lines if line.strip().startswith("exp-") for name in line.split()]
    assert heads == [f"exp-{n}" for n in range(9)]


def test_without_an_experiment_it_says_how_one_is_made():
    (line,) = table(experiments(1), 120)
    assert line == "nothing differs between exp-0: `dvc exp run -S section.key=value` makes an experiment"


def test_names_and_values_of_any_length_do_not_break_a_line():
    def told(name: str, value: str) -> dict:
        params = {"params.yaml": {"data": {"a.b" * 80: value}}}
        return {"rev": "ab" * 20, "name": name, "data": {"params": params, "metrics": {}}}

    lines = table(list(module._experiments([told("e\n" * 200, "x\n" * 500), told("short", "y")])), 100)
    assert len(lines) == 2
    assert max(map(len, lines)) <= 100
    assert not any("\n" in line for line in lines)


def test_a_folder_without_dvc_is_refused_in_one_line(tmp_path):
    (tmp_path / "rows.yaml").write_text("rows:\n  mine: {label: Mine, set: {}}\n")
    with pytest.raises(
        ValueError, match=r"`dvc exp show` in .* ended with 25\d: ERROR: you are not inside of a DVC"
    ) as said:
        compare(open_experiment(tmp_path))
    assert "\n" not in str(said.value)


def test_figures_are_means_with_their_deviation_and_settings_of_every_file_are_read():
    data = {
        "params": {"params.yaml": {"data": {"distill": {"lambda": 0.3}}}, "broken.yaml": {"error": "gone"}},
        "metrics": {"results/metrics.json": {"data": {"row": {"knn_top1": 85.2, "knn_top1_sd": 2.4, "knn_top1_n": 3}}}},
    }
    found = list(module._experiments([{"rev": "workspace", "name": None, "data": data, "experiments": None}]))
    assert found == [Shown("workspace", {"distill.lambda": "0.3"}, {"row.knn_top1": "85.2 ± 2.4"})]
