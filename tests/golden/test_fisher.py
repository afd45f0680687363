import torch

from golden.slow import assert_same
from stakes.methods import Fisher


def test_fisher_adds_noise_of_the_published_variance(network, forget):
    result = Fisher()(network, forget, seed=3)
    data, slow = forget.in_one_order(), network.copy().eval()
    information = {name: torch.zeros_like(p) for name, p in slow.named_parameters()}
    for image in data.images:
        for y in range(4):
            logits = slow(image[None])[0]
            p = (logits.exp() / logits.exp().sum())[y]
            for name, parameter in slow.named_parameters():
                (g,) = torch.autograd.grad(p.log(), parameter, retain_graph=True)
                information[name] += p.detach() * g**2 / 6
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in slow.named_parameters():
            head = name.startswith("head")
            variance = 1 / (information[name] + 1e-8)
            variance[variance > 1e3] = 1e3
            if head:
                variance[variance > 1e2] = 1e2
            if parameter.ndim > 1:
                for row in variance:
                    row.copy_(row.mean(0).expand_as(row))
            if head or parameter.ndim == 1:
                variance *= 10
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += (1e-6 * variance).sqrt() * noise
    assert_same(network, result.classifier, slow)
    assert len(result.history) == 2  # the start, and one strength
