"""The notes below a benchmark's tables: what bold means, how it was measured, how runs ended."""

from collections.abc import Sequence

from stakes.report.verdict import DAMAGE
from stakes.rows import Outcome
from stakes.runs.tables import Row, grouped

MARKING = (
    "Mean ± sample standard deviation over n seeds. Bold: better than every other method of the "
    "same network and k by more than the sum of the two standard deviations (n ≥ 2). In the "
    "columns on accuracy, drift and cost, only methods compete that forgot every image in every "
    f"run; a network that lost {DAMAGE:.0f} points of accuracy or more is never bold."
)
#: What rows of one network, k and seed have in common, so that they can be compared.
IMAGES = {
    "forget_digest": "images to forget",
    "test_digest": "test images",
    "retain_digest": "retained images",
}


def circumstances(rows: Sequence[Row]) -> list[str]:
    """On what the rows were measured; a warning where it was not always the same."""
    notes = []
    machines = {
        f"{row.get('accelerator') or row.get('cpu')}, {row.get('threads')} "
        f"thread{'' if row.get('threads') == 1 else 's'}"
        for row in rows
    }
    if machines:
        notes.append(
            f"Measured on {'; '.join(sorted(machines))}. A row repeats bit for bit on the same "
            "machine with as many threads."
        )
    if len(machines) > 1:
        notes.append(
            "Seconds and memory were taken under different circumstances: compare with care."
        )
    versions = {(row.get("version_stakes"), row.get("version_torch")) for row in rows}
    if len(versions) > 1:
        said = "; ".join(f"stakes {a} with torch {b}" for a, b in sorted(versions, key=str))
        notes.append(f"The rows come from different versions ({said}).")
    samples = {(row.get("n_test"), row.get("n_retain")) for row in rows}
    notes += [
        f"Scored on {test} test and {retain} retained images."
        for test, retain in sorted(samples, key=str)
    ]
    return notes + _unlike(rows)


def _unlike(rows: Sequence[Row]) -> list[str]:
    """A note for every network and k whose rows of one seed are not of the same images."""
    notes = []
    for (network, k), own in grouped(rows, "cell_network", "k").items():
        by_seed = grouped(own, "seed").values()
        found = [
            words
            for key, words in IMAGES.items()
            if any(len({row.get(key) for row in group} - {None}) > 1 for group in by_seed)
        ]
        if found:
            notes.append(
                f"{network}, k = {k}: rows of the same seed are not of the same images "
                f"({', '.join(found)}): the data was changed between the runs, or methods read "
                "it in different ways. Do not compare them."
            )
    return notes


def endings(rows: Sequence[Row]) -> list[str]:
    """A note for every network, k and method of which runs ended without all being forgotten."""
    notes = []
    for (network, k, method), own in grouped(rows, "cell_network", "k", "cell_method").items():
        odd = [
            str(row.get("stop_reason")) for row in own if Outcome.of(row) is not Outcome.FORGOTTEN
        ]
        if odd:
            count = f"{len(odd)} of {len(own)} runs ended otherwise than with all forgotten"
            said = "; ".join(dict.fromkeys(odd))
            notes.append(f"{network}, k = {k}, {method}: {count} ({said}).")
    return notes
