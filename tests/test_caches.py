"""Networks that keep, in eval mode, what they computed from their weights."""

import inspect

import pytest
import torch
from torch import nn

from stakes import Classifier


class Biased(nn.Module):
    """Adds a bias that it keeps between passes, as the LeViT of transformers does."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(48))
        self.attention_biases = nn.Parameter(torch.zeros(48))
        self.attention_bias_cache = {}
        self.head = nn.Linear(48, 5)

    def train(self, mode=True):
        if mode and self.attention_bias_cache:
            self.attention_bias_cache = {}
        return super().train(mode)

    def bias(self, device):
        if self.training:
            return 2 * self.attention_biases
        if device not in self.attention_bias_cache:
            self.attention_bias_cache[device] = 2 * self.attention_biases
        return self.attention_bias_cache[device]

    def forward(self, x):
        return self.head(self.scale * x.flatten(1) + self.bias(str(x.device)))


class Moved(Biased):
    """Has another cache once it is moved, as the LeViTs of timm have."""

    def _apply(self, *arguments):
        self.attention_bias_cache = {}
        return super()._apply(*arguments)


@pytest.fixture(params=[Biased, Moved])
def classifier(request):
    return Classifier.wrap(request.param(), input_size=4).to("cpu")


def test_what_is_kept_follows_the_weights(classifier):
    x = torch.rand(2, 3, 4, 4)
    for mode in (False, True, False):
        with torch.no_grad():
            before = classifier.train(mode)(x)
            classifier.body.attention_biases += 1
            after = classifier(x)
        shift = 2 * classifier.head.weight.sum(1).detach()
        torch.testing.assert_close(after - before, shift.expand(2, -1))


def test_each_step_has_a_gradient_of_its_own(classifier):
    for _ in range(2):
        classifier(torch.rand(2, 3, 4, 4)).sum().backward()
    assert classifier.body.attention_biases.grad.abs().sum() > 0
    classifier.copy()(torch.rand(2, 3, 4, 4)).sum().backward()


def test_loaded_weights_replace_what_was_kept_of_the_random_ones(tmp_path):
    code = f"import torch\nfrom torch import nn\n\n\n{inspect.getsource(Biased)}"
    (tmp_path / "own.py").write_text(code)
    plain = Biased().eval()
    nn.init.constant_(plain.attention_biases, 3)
    torch.save(plain.state_dict(), tmp_path / "w.pt")
    spec = f"{tmp_path}/own.py:Biased"
    loaded = Classifier.load(spec, weights=tmp_path / "w.pt", input_size=4)
    x = torch.rand(2, 3, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), plain(x))
