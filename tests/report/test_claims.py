"""What the paper claims is judged as the claim asks: by every pair, by the pairs' mean, or against a margin."""

import csv
from io import StringIO

import pytest

from attndistill.config.rows import Claim
from attndistill.evaluations import evaluations
from attndistill.report import pictures
from attndistill.report.columns import Column
from attndistill.report.differences import claims_sheet, claims_table, judge
from attndistill.report.entries import Entry
from attndistill.report.sheet import as_csv
from attndistill.results import Measurement

FIGURE = "k-NN top-1"


def row(name: str, top1: float | None = None) -> Entry:
    return Entry(name, name.upper(), paper=(top1, None))


def column(**cells: tuple[tuple[int, ...], tuple[float, ...]] | None) -> Column:
    found = tuple(cell and Measurement.of(cell[1], cell[0], "p") for cell in cells.values())
    return Column(evaluations()["knn"], "top1", "p", "", found)


def judged_and_sheet(claim: dict, rows: list[Entry], figures: Column):
    judged = judge([Claim.model_validate(claim)], rows, [figures])
    return judged[0], claims_sheet(judged, rows, [figures])


def lines_of(sheet) -> list[dict[str, str]]:
    """As CSV has them."""
    return list(csv.DictReader(StringIO(as_csv(sheet))))


def printed(sheet, heading: str, small: bool = False) -> list[str]:
    """A printed column."""
    place = [one.name for one in sheet.headings].index(heading)
    return [line[place].small if small else line[place].text for _, lines in sheet.groups for line in lines]


def against(*differences: tuple[float, ...], **options):
    """The claim that one row is ahead of others by these differences, three seeds each."""
    ours = ((0, 1, 2), (90.0, 90.0, 90.0))
    others = {f"w{n}": ((0, 1, 2), tuple(90.0 - d for d in given)) for n, given in enumerate(differences)}
    rows = [row("ours"), *map(row, others)]
    claim = {"claim": "x", "better": ["ours"] * len(others), "worse": list(others), "judge": "every"} | options
    return judged_and_sheet(claim, rows, column(ours=ours, **others))


FAR_AHEAD, BEHIND, FURTHER_BEHIND = (13.0, 12.9, 13.1), (-7.0, -6.0, -8.0), (-7.5, -7.4, -7.6)


def test_a_row_that_two_others_beat_is_not_best_however_far_it_is_ahead_of_a_third():
    claim, sheet = against(BEHIND, FURTHER_BEHIND, FAR_AHEAD)
    assert claim.outcome.verdict == "does not hold"
    verdicts = [line["verdict"] for line in lines_of(sheet)]
    assert verdicts == ["does not hold", "does not hold", "holds", "does not hold"] == printed(sheet, "Verdict")


def test_of_every_pair_the_weakest_is_marked_and_no_mean_is_printed():
    claim, sheet = against(BEHIND, FURTHER_BEHIND, FAR_AHEAD)
    assert printed(sheet, "Mean ± sd", small=True) == ["", "weakest", "", ""]
    assert [printed(sheet, name)[-1] for name in ("Mean ± sd", "p", "Verdict")] == ["", "", "does not hold"]
    last = lines_of(sheet)[-1]
    assert (last["scope"], last["worse"], last["mean"]) == ("claim", "W1", "-7.5")
    found = claims_table([claim])["x"][FIGURE]
    assert (found.judge, found.weakest, found.mean) == ("every", "OURS − W1", pytest.approx(-7.5))


def test_pairs_that_are_noise_one_by_one_do_not_hold_together_though_their_mean_would():
    noisy = (3.1, -1.0, 1.9), (-0.5, 3.6, 0.7)
    assert against(*noisy)[0].outcome.verdict == "within noise"
    claim, _ = against(*noisy, judge="mean")
    assert claim.outcome.evidence.p < 0.05 / 3  # three tests: of each pair, and of their mean
    assert claim.outcome.verdict == "holds"


def test_the_mean_of_the_pairs_is_taken_for_each_seed_that_all_share():
    rows = [row("a", 79.0), row("b", 78.5), row("c"), row("d", 70.0)]
    figures = column(
        a=((0, 1, 2), (90.0, 91.0, 92.0)),
        b=((0, 1, 2), (88.0, 90.0, 90.5)),
        c=((0, 1, 2, 3), (80.0, 80.0, 80.0, 99.0)),
        d=((2, 1, 0, 3), (78.0, 79.0, 77.0, 0.0)),
    )
    claim = {"claim": "x", "better": ["a", "c"], "worse": ["b", "d"], "judge": "mean"}
    judged, sheet = judged_and_sheet(claim, rows, figures)
    assert [pair.judged.differences for pair in judged.pairs] == [(2.0, 1.0, 1.5), (3.0, 1.0, 2.0, 99.0)]
    assert [pair.paper for pair in judged.pairs] == [0.5, None]
    assert judged.outcome.evidence.differences == (2.5, 1.0, 1.75)
    lines = [(line["scope"], line["better"], line["n"]) for line in lines_of(sheet)]
    assert lines == [("pair", "A", "3"), ("pair", "C", "4"), ("claim", "", "3")]
    assert printed(sheet, "Better − worse") == ["A − B", "C − D", "mean of the pairs"]


def test_no_worse_leaves_a_margin_in_every_pair_and_prints_it_with_the_bound():
    close = (-0.5, -0.45, -0.55), (0.2, 0.3, 0.1)
    claim, sheet = against(*close, judge="no_worse", margin=1.0)
    assert claim.outcome.verdict == "holds"
    assert claim.title == "x (margin 1 point)"
    assert printed(sheet, "Mean ± sd", small=True)[:2] == ["at least −0.58, weakest", "at least +0.03"]
    assert against(BEHIND, close[1], judge="no_worse", margin=1.0)[0].outcome.verdict == "does not hold"


def test_a_claim_of_one_pair_has_one_line_which_is_the_claims():
    _, sheet = against(FAR_AHEAD)
    assert [(line["scope"], line["verdict"]) for line in lines_of(sheet)] == [("claim", "holds")]


def test_every_difference_has_its_interval_both_p_and_what_its_seeds_could_detect():
    claim, sheet = against(FAR_AHEAD, BEHIND)
    first = lines_of(sheet)[0]
    judged = claim.pairs[0].judged
    wanted = (*judged.interval, judged.p, 2 * judged.p, judged.detectable)
    assert [float(first[name]) for name in ("low", "high", "p", "p_holm", "detectable")] == pytest.approx(wanted)
    assert printed(sheet, "95 % interval")[0] == "+12.75 to +13.25"
    assert printed(sheet, "Detectable")[0] == "0.33"


@pytest.mark.parametrize("judge_by", ["every", "mean"])
def test_a_row_that_nobody_measured_leaves_its_claim_unjudged(judge_by):
    claim = {"claim": "x", "better": ["a"], "worse": ["b"], "judge": judge_by}
    judged, _ = judged_and_sheet(claim, [row("a"), row("b")], column(a=((0,), (1.0,)), b=None))
    found = claims_table([judged])["x"][FIGURE].model_dump(exclude_unset=True)
    assert found == {"judge": judge_by, "n": 0, "verdict": "not measured"}


def test_a_claim_about_a_row_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"claim 'x': row 'c' given; allowed: a, b"):
        judge([Claim(claim="x", better=["a"], worse=["c"])], [row("a"), row("b")], [])


def test_the_page_prints_the_papers_figures_beside_ours_and_the_verdicts(experiment):
    experiment.models = {"teacher": {"paper": {"top1": 79.4, "top5": 93.6}}}
    experiment.rows["attndistill"]["paper"] = {"top1": 78.9, "top5": None}
    experiment.claims = [
        {"claim": "AttnDistill <beats> PA", "better": ["attndistill"], "worse": ["projector_alignment"]}
    ]
    table = experiment.build().table
    ours = {name: table.models[name].evaluations["logistic"]["top1"].mean for name in ("teacher", "attndistill")}
    gap = f"{ours['attndistill'] - ours['teacher']:+.1f}".replace("-", "−")
    page = experiment.page
    assert f"<td>78.9</td><td></td><td>−0.5</td><td>{gap}</td>" in page
    assert "<td>79.4</td><td>93.6</td><td></td><td></td>" in page
    assert "AttnDistill &lt;beats&gt; PA" in page
    verdict = table.claims["AttnDistill <beats> PA"]["k-NN top-1"].verdict
    assert f'">{verdict}</span>' in page
    (line, *_) = csv.DictReader((experiment.destination / "claims.csv").open())
    assert (line["claim"], line["verdict"]) == ("AttnDistill <beats> PA", verdict)
    tex = (experiment.destination / "table.tex").read_text()
    assert f"& $-$0.5 & {gap.replace('−', '$-$')} & 5 \\\\" in tex
    lines = {line["model"]: line for line in csv.DictReader((experiment.destination / "table.csv").open())}
    assert float(lines["attndistill"]["paper_top1_gap"]) == pytest.approx(-0.5)
    assert float(lines["attndistill"]["logistic_top1_gap"]) == pytest.approx(ours["attndistill"] - ours["teacher"])
    assert lines["teacher"]["logistic_top1_gap"] == ""


def test_more_models_than_one_chart_can_show_get_charts_by_group_and_the_chosen_pictures(experiment):
    names = [*experiment.rows, *(f"r{n}" for n in range(5))]
    experiment.rows = {
        name: {"label": name.upper(), "group": "(e) lambda", "set": {"a.lambda": 0.5 * place}}
        for place, name in enumerate(names)
    }
    experiment.pictures = names[:1]
    experiment.build()
    charts = sorted(path.name for path in (experiment.destination / "figures/groups").iterdir())
    assert charts == ["_e_lambda-setting.png", "_e_lambda.png"]
    assert "<h3>(e) lambda</h3>" in experiment.page


def test_a_group_that_varies_a_number_and_one_thing_more_gets_a_line_for_each(experiment, monkeypatch):
    asked = []

    def drawn(panels, **named):
        asked.append((panels, named))
        return b""

    monkeypatch.setattr(pictures, "curves_by_panel", drawn)
    names = [*experiment.rows, *(f"r{n}" for n in range(6))][:8]
    widths = [48, 12, 24, 6]
    experiment.rows = {
        name: {
            "label": name,
            "group": "Width",
            # the warm-up follows from the width
            "set": {"student.embed_dim": (width := widths[n // 2]), "warmup": 96 / width, "a.on": n % 2 == 1},
        }
        for n, name in enumerate(names)
    }
    experiment.build()
    assert (experiment.destination / "figures/groups/Width-setting.png").exists()
    ((panels, named),) = asked
    assert named["xlabel"] == "student.embed_dim"
    table = {line["model"]: line for line in csv.DictReader((experiment.destination / "table.csv").open())}
    measured = 0
    for title, key in (("k-NN", "knn_top1"), ("Logistic", "logistic_top1")):
        (lines,) = [lines for heading, lines in panels.items() if title in heading]
        for on in (0, 1):
            told = {widths[n // 2]: table[name][f"{key}_mean"] for n, name in enumerate(names) if n % 2 == on}
            told = {width: float(figure) for width, figure in told.items() if figure}
            if told:
                places, values = lines[f"a.on {on == 1}"]
                assert dict(zip(places, values.mean(axis=0), strict=True)) == pytest.approx(told)
                assert list(places) == sorted(told)
                measured += len(told)
    assert measured >= 4
