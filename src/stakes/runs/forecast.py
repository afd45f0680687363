"""What a run would take and write, from a few real steps on a copy that is thrown away."""

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from stakes.data.images import Images
from stakes.evaluation.scores import correct, score
from stakes.methods import Method
from stakes.models.classifier import Classifier
from stakes.preprocessing import in_words
from stakes.progress import clock
from stakes.runs.environment import peak_memory_mb
from stakes.runs.out_folder import OutFolder
from stakes.runs.record import Request

STEPS = 6  # taken at most; the first is left out, since it warms up
SECONDS = 60.0  # after which no further step is taken
FEW = 40  # steps: the default takes 39 to 48 for up to 16 images of CIFAR-10
SCORED = 64  # images that are read and scored to time it
NETWORKS = 2  # that score each image: before and after
STATE = 6  # at most so many networks in the saved state: weights, moments, and what is gone back to
IMAGE = 12_000  # bytes in the report and the evidence for each image to forget


class Enough(Exception):
    """Ends the trial."""


class Trial:
    """A progress that notes when each phase and each step was, and ends after some."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.phases: dict[str, tuple[float, float, int, int]] = {}
        self.steps: list[tuple[float, int]] = []
        self.budget = 0

    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None:
        """Note it; raise :class:`Enough` where enough is known."""
        now = time.perf_counter()
        first, *_ = self.phases.get(phase, (now,))
        self.phases[phase] = (first, now, done, total)
        if phase == "unlearning":
            self.budget = total
            self.steps.append((now, done))
        if len(self.steps) > STEPS or now - self.start > SECONDS:
            raise Enough

    @property
    def seconds_a_step(self) -> float | None:
        """The median over the steps but the first; None where no two were taken."""
        pairs = list(zip(self.steps[1:], self.steps[2:], strict=False)) or list(
            zip(self.steps, self.steps[1:], strict=False)
        )
        taken = [(b - a) / (n - m) for (a, m), (b, n) in pairs if n > m]
        return statistics.median(taken) if taken else None

    @property
    def seconds_before(self) -> float:
        """What precedes the steps; of a phase that was not finished, by its share."""
        end = self.steps[0][0] if self.steps else time.perf_counter()
        rest = 0.0
        for phase, (first, last, done, total) in self.phases.items():
            if phase != "unlearning" and not self.steps and 0 < done < total:
                rest += (last - first) * (total - done) / done
        return end - self.start + rest


def forecast(request: Request, out: Path, overwrite: bool) -> dict[str, Any]:
    """Try the run's first steps, and say what all of it would take; nothing is written.

    Args:
        request: what the run is asked for.
        out: the folder that it would write.
        overwrite: whether it may replace an earlier result.

    Returns:
        ``k``, ``n_recognised_before``, ``preprocessing``; ``seconds_step`` (None where the method
        takes no steps, or none within ``SECONDS``), ``steps_most``, ``seconds_least`` and
        ``seconds_most`` in all (None where unknown), ``seconds_scoring``; ``peak_memory_mb``;
        ``disk_mb``, of the result, ``disk_while_running_mb``, more while it runs, and
        ``disk_free_mb``; ``out``, ``replaces`` and ``resumes``.

    Raises:
        InputError: what the method refuses.
    """
    place = OutFolder.of(out)
    forget = request.forget.to(request.classifier.device)
    scored = score(request.classifier.copy().eval(), forget.images, forget.labels)
    trial = Trial()
    finished = _try(request, trial)
    step = trial.seconds_a_step
    scoring = _seconds_scoring(request)
    least, most = (_whole(trial, finished, steps) for steps in (FEW, trial.budget))
    network = sum(t.numel() * t.element_size() for t in request.classifier.state_dict().values())
    above = next(folder for folder in place.work.parents if folder.exists())
    return {
        "k": len(forget),
        "n_recognised_before": int(correct(scored.logits, scored.labels).sum()),
        "preprocessing": in_words(request.classifier.preprocessing),
        "seconds_step": step,
        "steps_most": trial.budget or None,
        "seconds_scoring": scoring,
        "seconds_least": None if least is None else least + scoring,
        "seconds_most": None if most is None else most + scoring,
        "peak_memory_mb": peak_memory_mb(request.classifier.device),
        "disk_mb": (network + len(forget) * IMAGE) / 2**20,
        "disk_while_running_mb": STATE * network / 2**20,
        "disk_free_mb": shutil.disk_usage(above).free / 2**20,
        "out": str(place.out),
        "replaces": overwrite and bool(place.entries()),
        "resumes": any(place.work.glob("state-*.pt")),
    }


def _whole(trial: Trial, finished: bool, steps: int) -> float | None:
    """Seconds of unlearning, if that many steps are needed; None where a step is not known."""
    if finished:
        return time.perf_counter() - trial.start
    step = trial.seconds_a_step
    return None if step is None else trial.seconds_before + min(steps, trial.budget) * step


def _try(request: Request, trial: Trial) -> bool:
    """Begin the run; whether it came to its end within the trial."""
    method: Method = request.method
    try:
        method(
            request.classifier,
            request.forget,
            anchors=request.anchors,
            retain=request.retain if method.needs_retain else None,
            surrogates=request.surrogates,
            seed=request.seed,
            progress=trial,
        )
    except Enough:
        return False
    return True


def _seconds_scoring(request: Request) -> float:
    """Reading and scoring all images, from what some of them take."""
    seconds = 0.0
    wanted = request.eval_samples
    for images in (request.test, request.retain):
        if images is not None:
            count = min(len(images), wanted or len(images))
            seconds += count * _seconds_an_image(request.classifier, images)
    return seconds


def _seconds_an_image(classifier: Classifier, images: Images) -> float:
    places = list(range(min(SCORED, len(images))))
    start = time.perf_counter()
    pixels = images.load(places).to(classifier.device)
    read = time.perf_counter()
    score(classifier, pixels, images.labels[places].to(classifier.device))
    end = time.perf_counter()
    # once to choose them, once to score them
    return (2 * (read - start) + NETWORKS * (end - read)) / len(places)


def as_text(found: dict[str, Any]) -> str:
    """The forecast for people, a line for each thing."""
    least, most = found["seconds_least"], found["seconds_most"]
    step = found["seconds_step"]
    if most is None:
        total = f"not known: no two steps within {SECONDS:.0f} s"
    elif step is None:
        total = f"about {clock(most)}"
    else:
        steps, few = found["steps_most"], min(FEW, found["steps_most"])
        total = f"{clock(least)} ({few} steps) to {clock(most)} (all {steps:,} steps)"
    where = " (the earlier result there is replaced)" if found["replaces"] else ""
    lines = {
        "recognised before": f"{found['n_recognised_before']} of {found['k']} images to forget",
        "preprocessing": found["preprocessing"],
        "a step": "not measured"
        if step is None
        else f"{step:.3g} s, of at most {found['steps_most']:,}",
        "all of it": f"{total}; of that, scoring {clock(found['seconds_scoring'])}",
        "memory": f"{found['peak_memory_mb']:,.0f} MiB at most so far",
        "disk": f"{found['disk_mb']:,.1f} MiB, while it runs up to "
        f"{found['disk_while_running_mb']:,.1f} MiB more; {found['disk_free_mb']:,.0f} MiB are "
        "free",
        "would be written": f"{found['out']}{where}",
    }
    if found["resumes"]:
        lines["interrupted run"] = "there is a state beside it; the same command resumes it"
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {words}" for name, words in lines.items())
