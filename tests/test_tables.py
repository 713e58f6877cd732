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
