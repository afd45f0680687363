"""Vary a hyper-parameter over several seeds and read the results as a pandas DataFrame.

    pip install pandas
    python examples/sweep_to_dataframe.py

For long sweeps use `stakes bench`: it resumes, runs cells in parallel and writes tables.
`stakes.frame("runs/mine/rows.jsonl")` reads its rows into the same DataFrame.
"""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from stakes import ForgetSet, NegGrad, evaluate, frame, load_data
from stakes.demo import train

if TYPE_CHECKING:
    from pandas import DataFrame


def main(
    rates: Sequence[float] = (1e-3, 3e-3, 1e-2), seeds: Sequence[int] = (0, 1, 2)
) -> "DataFrame":
    data = load_data("digits", size=16)
    network = train(data.train, data.class_names)
    rows = []
    for lr, seed in product(rates, seeds):
        forget = ForgetSet.random(data.train, 8, seed)
        result = NegGrad(lr=lr)(network, forget, seed=seed)
        row, _ = evaluate(
            network, result.classifier, forget, test=data.test, thumbnails=False, seed=seed
        )
        rows.append({"lr": lr, "seed": seed, "steps": result.history[-1]["step"], **row})
    table = frame(rows)
    table["acc_lost"] = table["acc_test_before"] - table["acc_test"]
    columns = ["acc_forget", "acc_lost", "forget_views", "steps"]
    print(table.groupby("lr")[columns].agg(["mean", "std"]).round(2).to_string())
    return table


if __name__ == "__main__":
    main()
