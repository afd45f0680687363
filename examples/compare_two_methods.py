"""Compare two methods on the same network and the same images, over several seeds.

    python examples/compare_two_methods.py

Every method is called in the same way; `stakes.METHODS` has all of them by name.
"""

from collections.abc import Mapping, Sequence

from stakes import ForgetSet, NegGrad, StructGuard, evaluate, load_data
from stakes.demo import train
from stakes.methods import Method
from stakes.rows import METRICS, stat

DEFAULT: dict[str, Method] = {"STRUCTGUARD": StructGuard(), "NegGrad": NegGrad()}
SHOWN = ("acc_forget", "forget_flip", "acc_test", "acc_retain")


def main(
    methods: Mapping[str, Method] = DEFAULT, seeds: Sequence[int] = (0, 1, 2), k: int = 8
) -> dict[str, list[dict]]:
    data = load_data("digits", size=16)
    network = train(data.train, data.class_names)
    rows: dict[str, list[dict]] = {name: [] for name in methods}
    for seed in seeds:
        forget = ForgetSet.random(data.train, k, seed)  # the same images for every method
        for name, method in methods.items():
            result = method(network, forget, anchors="digits", seed=seed)
            row, _ = evaluate(
                network, result.classifier, forget, test=data.test, retain=data.train, seed=seed
            )
            rows[name].append(row)
    for key in SHOWN:
        print(f"{METRICS[key].meaning}, {METRICS[key].unit}")
        for name, found in rows.items():
            n, mean, sd = stat(row[key] for row in found)
            print(
                f"    {name:12} {mean:6.2f} " + (f"± {sd:.2f} (n = {n})" if sd is not None else "")
            )
    return rows


if __name__ == "__main__":
    main()
