"""A figure over seeds carries its values, its sample deviation and its protocol."""

from attndistill.core.measurement import summarise


def test_the_deviation_is_the_sample_s_and_one_seed_has_none():
    several = summarise([90.0, 92.0, 94.0], [0, 1, 2], "knn/v1")
    assert (several["mean"], several["sd"], several["n"]) == (92.0, 2.0, 3)
    assert (several["values"], several["seeds"], several["protocol"]) == ([90.0, 92.0, 94.0], [0, 1, 2], "knn/v1")
    single = summarise([90.0], [7], "knn/v1")
    assert (single["mean"], single["sd"], single["n"], single["seeds"]) == (90.0, None, 1, [7])
