"""Tables for people."""

import math

import pandas as pd

from procbench.views import tables_stealing


def test_intervals_stand_beside_their_estimates_and_what_is_unknown_is_left_out():
    row = {"way": "procbench", "median_s": 0.4123, "low_s": 0.4, "high_s": 0.43, "verdict": "better"}
    row |= {"ratio": 1.234, "ratio_low": 1.1, "ratio_high": 1.3, "tasks_per_s": 196.4, "limit_share": 0.937}
    usual = row | {"way": "usual", "low_s": math.nan, "high_s": math.nan, "ratio": math.nan, "verdict": "the baseline"}
    table = tables_stealing.ways(pd.DataFrame([row, usual]))
    assert table.loc["procbench"].tolist() == ["0.412 [0.400, 0.430]", "1.23 [1.10, 1.30]", "better", "196", "94 %"]
    assert table.loc["usual"].tolist()[:3] == ["0.412", "", "the baseline"]


def test_a_law_beyond_what_was_measured_is_said_in_words():
    numbers = [("λ", 10.0, 9.0, 11.0), ("κ", 0.0123, math.nan, math.nan), ("N*", 5.0, 3.0, math.inf)]
    numbers += [("far", math.inf, math.inf, math.inf)]
    table = tables_stealing.law(pd.DataFrame(numbers, columns=["name", "value", "low", "high"]))
    assert table.loc["λ"].tolist() == ["10", "9 to 11"]
    assert table.loc["κ"].tolist() == ["0.0123", ""]
    assert table.loc["N*"].tolist() == ["5", "3 to beyond what was measured"]
    assert table.loc["far"].tolist() == ["beyond what was measured"] * 2
    assert tables_stealing.law(pd.DataFrame(columns=["name", "value", "low", "high"])).empty


def test_shapes_have_a_row_each_with_time_bound_and_gain():
    row = {"shape": "skewed", "way": "longest first", "median_s": 0.1, "low_s": 0.09, "high_s": 0.11, "of_bound": 1.02}
    row |= {
        "of_bound_low": 1.0,
        "of_bound_high": 1.05,
        "ratio": 1.1,
        "ratio_low": 1.05,
        "ratio_high": 1.2,
        "verdict": "better",
    }
    table = tables_stealing.shapes(pd.DataFrame([row]))
    found = table.loc[("skewed", "longest first")].tolist()
    assert found == ["100 [90, 110]", "1.02 [1.00, 1.05]", "1.10 [1.05, 1.20]", "better"]
    assert tables_stealing.shapes(pd.DataFrame()).empty
