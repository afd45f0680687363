"""Tiny networks and images that every test can afford; real data where it lies beside."""

import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

# There is a worker for each core: more threads than one would wait for each other. Before torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the same tests on every machine

import pytest
import torch
from filelock import FileLock
from torch import nn

from stakes import Classifier, ForgetSet
from stakes.anchors.anchors import Anchors
from stakes.data.datasets import DATASETS, Splits
from stakes.data.images import ImageArray
from stakes.evaluation import audit

gc.set_threshold(100_000, 20, 20)  # what is loaded stays: look at it less often
# Tests that a script starts in the background ignore SIGINT, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
CLASSES = ("red", "green", "blue", "grey")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin with one thread: a command that ran before may have set more, and bits follow them."""
    torch.set_num_threads(1)


class Tiny(nn.Module):
    """Two convolutions with BatchNorm, 8 features, a linear head."""

    def __init__(self, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coloured images (n, 3, 8, 8) in 8 bits with their class: its colour is strongest."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    pixels = torch.rand(count, 3, 8, 8, generator=generator) * 0.6
    for channel in range(3):
        pixels[labels == channel, channel] += 0.3
    return (pixels * 255).round().to(torch.uint8), labels


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that ``make`` fills, once for all processes of a session; nobody may change it."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, made = root / name, root / f"{name}.made"
    with FileLock(root / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """Images of four colours, and the weights of a network that knows them."""
    from command_line import furnish

    return once(tmp_path_factory, "place", furnish)


def built(out: Path) -> Path:
    """The site; a warning, such as a link that leads nowhere, is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(out), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return out


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The documentation as a site."""
    return once(tmp_path_factory, "site", built)


@pytest.fixture
def no_umask() -> Iterator[None]:
    """The user lets everybody read and write new files: what is private must say so itself."""
    umask = os.umask(0)
    yield
    os.umask(umask)


@pytest.fixture
def few_digits(monkeypatch) -> None:
    """Of the data set of digits, 320 to train on and 100 to test on; a pass is 5 batches of 64."""

    def few(root: Path, download: bool, size: int | None) -> Splits:
        whole = digits(root, download, size)
        parts = ((whole.train, 320), (whole.test, 100))
        cut = [ImageArray(p.pixels[:n], p.labels[:n], prefix=p.prefix) for p, n in parts]
        return Splits(*cut, whole.class_names)

    digits = DATASETS["digits"]
    monkeypatch.setitem(DATASETS, "digits", few)


@pytest.fixture
def no_page(monkeypatch) -> None:
    """Drawing the report takes longer than such a run: not where nobody looks at it."""
    monkeypatch.setattr("stakes.report.page.write_report", lambda folders, out: out.touch())


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Drawing is most of a page's time: no lines for those who look at words alone."""
    from matplotlib.figure import Figure

    def blank(figure, out, **options) -> None:
        out.write('<svg viewBox="0 0 1 1">\n</svg>')

    monkeypatch.setattr(Figure, "savefig", blank)


def without_attacks(patch: pytest.MonkeyPatch) -> None:
    """Attacks are most of a tiny run's time: as without test images, where nobody looks at them."""
    member, relearn = audit.audit_membership, audit.audit_relearning
    contrast = audit.audit_contrast
    patch.setattr(audit, "audit_contrast", lambda *given: contrast(*given[:3], None))
    patch.setattr(audit, "audit_membership", lambda forget, *_: member(forget, None, None))
    patch.setattr(audit, "audit_relearning", lambda *given: relearn(*given[:3], None))


@pytest.fixture
def unattacked(monkeypatch) -> None:
    without_attacks(monkeypatch)


@pytest.fixture(scope="session")
def train_images() -> ImageArray:
    return ImageArray(*blobs(160, 0), prefix="train")


@pytest.fixture(scope="session")
def test_images() -> ImageArray:
    return ImageArray(*blobs(80, 1), prefix="test")


@pytest.fixture(scope="session")
def trained(train_images: ImageArray) -> Classifier:
    """A classifier that knows its training images; session-wide, so nobody may change it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Classifier.wrap(Tiny(), class_names=CLASSES, input_size=8)
    images, labels = train_images.load(range(len(train_images))), train_images.labels
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.02)
    classifier.train()
    for _ in range(60):
        loss = nn.functional.cross_entropy(classifier(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    classifier.eval()
    assert (classifier(images).argmax(1) == labels).float().mean() > 0.95
    return classifier


@pytest.fixture
def classifier(trained: Classifier) -> Classifier:
    return trained.copy()


@pytest.fixture(scope="session")
def forget(train_images: ImageArray, trained: Classifier) -> ForgetSet:
    """Six images of two classes, so that there is a class that is wrong for all of them."""
    known = trained(train_images.load(range(len(train_images)))).argmax(1) == train_images.labels
    chosen = (known & (train_images.labels < 2)).nonzero()[:6, 0]
    return ForgetSet.from_indices(train_images, chosen.tolist())


@pytest.fixture(scope="session")
def anchors() -> Anchors:
    vectors = torch.randn(len(CLASSES), 12, generator=torch.Generator().manual_seed(3))
    return Anchors(nn.functional.normalize(vectors, dim=1), CLASSES, {"encoder": "random"})


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the project, for development; skips where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"no development data in {SHARED}")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that wait rather than compute come first: at the end, nothing would run beside them."""
    items.sort(key=lambda item: item.path.name != "test_cluster.py")
