"""``stakes demo``: a network trained on the spot, three methods, one page."""

from pathlib import Path

from stakes.errors import check_seed
from stakes.progress import Terminal
from stakes.runs.words import Place, Switch, Whole


def demo(*, out: Place = Path("demo"), overwrite: Switch = False, seed: Whole = 0) -> None:
    """Train a small network on digits, make it forget 16 of them with three methods, and report.

    Args:
        out: folder to write
        overwrite: replace OUT if it holds an earlier demo
        seed: of every random choice
    """
    check_seed(seed, "--seed")
    from stakes.demo import NETWORK, run_demo  # only here: it imports the report
    from stakes.models.classifier import Classifier
    from stakes.runs.threads import fit_threads

    fit_threads(Classifier.load(NETWORK, num_classes=10))

    with Terminal() as progress:
        page = run_demo(out, overwrite=overwrite, seed=seed, progress=progress)
    print(f"report  {page}")
