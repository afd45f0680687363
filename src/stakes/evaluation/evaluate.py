"""Score a network before and after unlearning: one flat row of numbers, and its evidence."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from stakes.data.adapter import Data, as_images
from stakes.data.forget import ForgetSet
from stakes.data.retain import Drawn
from stakes.errors import InputError, first_line
from stakes.evaluation.accuracy import Row, accuracies
from stakes.evaluation.again import duplicates, found_in_data
from stakes.evaluation.audit import Evidence, audit
from stakes.evaluation.examples import EXAMPLES, Structure, examples
from stakes.evaluation.forgetting import forget_answers, forget_evidence, forget_scores
from stakes.evaluation.kept import Kept
from stakes.evaluation.own import Given, Measure, check_measures, measured
from stakes.evaluation.reference import against, check_reference
from stakes.evaluation.scores import REFERENCE
from stakes.evaluation.selection import select
from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.training.devices import plain_settings, repeatable


@plain_settings()
def evaluate(
    before: Classifier,
    after: Classifier,
    forget: ForgetSet,
    *,
    test: Data | None = None,
    retain: Data | None = None,
    other: Mapping[str, Classifier] | None = None,
    reference: Classifier | None = None,
    eval_samples: int | None = None,
    seed: int = 0,
    selected: Mapping[str, Drawn] | None = None,
    structure: Structure | None = None,
    thumbnails: bool = True,
    metrics: Mapping[str, Measure] | None = None,
    kept: Kept | None = None,
    progress: Progress = silent,
) -> tuple[Row, Evidence]:
    """Score the classifier before and after unlearning, on data that no method sees.

    Args:
        before: the classifier as it was.
        after: the classifier to deploy.
        forget: the images that were to be forgotten.
        test: images of no training set, as :func:`stakes.data.adapter.as_images` takes them; PIL
            images are brought to the size of the forget set's.
        retain: training images, likewise; forget images and their near-duplicates among them are
            left out, as found by content.
        other: further paths by name, which becomes the suffix of their accuracies.
        reference: a network to compare with, such as one trained without the forget images (see
            :func:`stakes.evaluation.reference.against`).
        eval_samples: score at most this many test and retained images, drawn with ``seed``.
        seed: of that draw.
        selected: what :func:`stakes.evaluation.selection.select` gave for the same arguments, if
            it was called before.
        structure: the stakes, for examples of affinities before and after.
        thumbnails: whether the evidence holds images.
        metrics: measures of your own by their keys in the row. Each is called with a copy of a
            classifier, in eval mode, and :class:`stakes.evaluation.own.Given`: ``forget``,
            ``test`` and ``retain``. Without gradients, it returns a number for each classifier.
        kept: where the networks' answers on all images are kept, so that the same call resumes
            after an interruption; the caller removes them (see :mod:`stakes.evaluation.kept`).
        progress: called with phase, steps done, steps in all and a note.

    Returns:
        The row: the measures of :data:`stakes.rows.METRICS`, with ``_before`` for the original and
        None for what was not measured; accuracies are in percent. ``forgotten_classes`` names the
        classes that were to be forgotten as a whole; ``n_copies_left_out`` counts images that
        were given more than once (see :class:`stakes.data.forget.ForgetSet`). The evidence:
        records for each class and each forget image, and what the figures of the report are drawn
        from (see :mod:`stakes.evaluation.audit` and :mod:`stakes.evaluation.examples`).

    Raises:
        InputError: an argument of another type; labels outside the classes; a reference with
            other classes; a metric under the key of another measure, with other arguments, or
            that fails or gives no number; a damaged image; or ``eval_samples`` below 1.
    """
    before = Classifier.require(before, "the network before")
    after = Classifier.require(after, "the network after")
    forget = ForgetSet.require(forget)
    forget.check(after.num_classes)
    if before.class_names != after.class_names:
        raise InputError(
            "the network after unlearning has other classes than the one before: give both "
            "of one run"
        )
    if reference is not None:
        check_reference(Classifier.require(reference, "the reference"), after)
    check_measures(metrics or {}, other or {})
    side = forget.images.shape[-1]
    sets = {
        name: None if data is None else as_images(data, size=side, prefix=name)
        for name, data in (("test", test), ("retain", retain))
    }
    forget = forget.to(after.device)
    networks = {"_before": before, "": after}
    networks |= {f"_{name}": network for name, network in (other or {}).items()}
    if selected is None:
        selected = select(forget, **sets, eval_samples=eval_samples, seed=seed, progress=progress)
    compared = {} if reference is None else {REFERENCE: reference}
    with repeatable(after.device), _eval_mode([*networks.values(), *compared.values()]):
        kept = kept or Kept()
        with kept.of({**networks, **compared}):
            row, classes, samples = accuracies(
                networks, sets, selected, forget.classes, compared, kept, progress
            )
            scored, copies = forget_answers(networks, forget, kept)
            altered = [copy for kind in copies[""].values() for copy in kind]
            audited, evidence = audit(
                after, forget, scored, copies=altered, **samples, kept=kept, progress=progress
            )
        row |= forget_scores(scored, copies)
        row |= {"n_copies_left_out": forget.dropped}
        row |= found_in_data(forget, selected.get("retain"))
        images = forget_evidence(before.class_names, forget, scored, copies, thumbnails)
        row |= audited | against(reference, forget, scored, samples)
        row |= _own(metrics or {}, networks, Given(forget, **sets), row)
        shown: Evidence = {key: [] for key in EXAMPLES}
        if thumbnails:
            try:
                shown = examples(before, after, forget, scored, **samples, structure=structure)
            except Exception as error:  # they stand beside the numbers: no reason to lose the run
                progress("examples", 0, 1, f"left out: {first_line(error)}")
    twins = duplicates(forget, sets["retain"], selected.get("retain"))
    return row, {"classes": classes, "forget": images, "duplicates": twins, **evidence, **shown}


def _own(
    metrics: Mapping[str, Measure], networks: Mapping[str, Classifier], given: Given, row: Row
) -> Row:
    """The user's own measures of each network, under their keys with its suffix.

    Raises:
        InputError: a key that another measure has; or a measure that fails or gives no number.
    """
    taken = [key for key in metrics if key in row]
    if taken:
        raise InputError(f"metrics: {taken[0]} is measured already; give yours another key")
    return {
        key + suffix: measured(key, measure, network, given)
        for key, measure in metrics.items()
        for suffix, network in networks.items()
    }


@contextmanager
def _eval_mode(networks: Collection[nn.Module]) -> Iterator[None]:
    """Put the networks into eval mode, and every module back into its own mode afterwards."""
    modes = {part: part.training for network in networks for part in network.modules()}
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for part, training in modes.items():
            part.training = training
