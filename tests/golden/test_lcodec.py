"""L-CODEC against a loop written from its authors' code (vsingh-group/LCODEC-deep-unlearning)."""

import math

import torch
from torch.nn import functional as F

from golden.slow import assert_same
from stakes import METHODS

LAMBDA, DELTA, N = 0.01, 0.01, 160
EPSILON = 1e6  # so that the noise on the weights does not hide the step


def nearest(points):
    """For each row its nearest other one, by brute force."""
    found = []
    for i, point in enumerate(points):
        distances = [float(((point - other) ** 2).sum()) for other in points]
        distances[i] = math.inf
        found.append(distances.index(min(distances)))
    return found


def selection(variables, response):
    """The columns by FOCI: codec(Y, Z), and then codec(Y, Z | X) as long as it is above 0."""
    n, count = variables.shape
    ranks = [1 + sum(other < y for other in response.tolist()) for y in response.tolist()]

    def codec2(column):
        m = nearest(variables[:, [column]])
        above = [n + 1 - r for r in ranks]
        top = sum(n * min(ranks[i], ranks[m[i]]) - above[i] ** 2 for i in range(n))
        return top / sum(a * (n - a) for a in above)

    def codec3(column, given):
        before, after = nearest(variables[:, given]), nearest(variables[:, [*given, column]])
        least = [min(ranks[i], ranks[before[i]]) for i in range(n)]
        lower = [min(ranks[i], ranks[after[i]]) for i in range(n)]
        below = sum(r - low for r, low in zip(ranks, least, strict=True))
        return sum(a - b for a, b in zip(lower, least, strict=True)) / below if below else math.nan

    chosen = [max(range(count), key=codec2)]
    while len(chosen) < count:
        coefficients = {c: codec3(c, chosen) for c in range(count) if c not in chosen}
        best = max(
            coefficients,
            key=lambda c: -math.inf if math.isnan(coefficients[c]) else coefficients[c],
        )
        if not coefficients[best] > 0:
            break
        chosen.append(best)
    return chosen


def test_a_step_that_costs_too_much_is_taken_back(network, forget, train_images):
    method = METHODS["lcodec"](perturbations=5, max_steps=2, epsilon=1e-9)  # all noise
    found = method(network, forget, retain=train_images, seed=3)
    assert found.chosen["steps_taken_back"] == 2
    assert found.classifier.digest() == network.digest()


class Slow:
    """The network of the slow loop, its gradients and its chosen rows."""

    def __init__(self, network):
        self.network = network
        self.layers = [network.body.conv1, network.body.conv2, network.head]
        self.rows = []

    def gradient(self, x, y):
        self.network.zero_grad()
        F.cross_entropy(self.network(x), y).backward()
        return {p: p.grad.clone() for p in self.network.parameters()}

    def here_and_near(self, x, y):
        first, saved = self.gradient(x, y), {}
        with torch.no_grad():
            for p, g in first.items():
                saved[p] = p.detach().clone()
                p -= 1e-3 * g
        second = self.gradient(x, y)
        with torch.no_grad():
            for p, value in saved.items():
                p.copy_(value)
        return first, second

    def choose(self, copies, label):
        seen, losses, found = {}, [], []
        hooks = [
            layer.register_forward_hook(lambda layer, _, output: seen.update({layer: output}))
            for layer in self.layers
        ]
        for one in copies:
            losses.append(F.cross_entropy(self.network(one[None]), label).detach())
            first, second, head = (seen[layer].detach()[0] for layer in self.layers)
            found.append(torch.cat([first.mean((1, 2)), second.mean((1, 2)), head]))
        for hook in hooks:
            hook.remove()
        units = [(layer, i) for layer in self.layers for i in range(len(layer.weight))]
        chosen = [units[i] for i in selection(torch.stack(found), torch.stack(losses))]
        self.rows = []
        for layer in dict(chosen):
            for tensor in (layer.weight, layer.bias):
                self.rows += [(tensor, i) for other, i in chosen if other is layer]

    def flat(self, of):
        return torch.cat([of[p][i].reshape(-1) for p, i in self.rows])

    def hessian(self, pair):
        change = self.flat(pair[0]) - self.flat(pair[1])
        return torch.outer(change, change) / (1e-3 * self.flat(pair[0])).abs().sum()

    @torch.no_grad()
    def move(self, step):
        for p, i in self.rows:
            size = p[i].numel()
            p[i] += step[:size].view_as(p[i])
            step = step[size:]


def test_two_images(normalising, forget, train_images, retained):
    network = normalising
    method = METHODS["lcodec"](retain_samples=0, perturbations=12, max_steps=2, epsilon=EPSILON)
    found = method(network, forget, retain=train_images, seed=3)

    slow, generator = Slow(network.copy()), torch.Generator().manual_seed(3)
    images, labels = retained(generator)
    ordered = forget.in_one_order()
    data = slow.here_and_near(images, labels)
    for place in range(2):
        image, label = ordered.images[[place]], ordered.labels[[place]]
        noise = torch.randn(12, 3, 8, 8, generator=generator)
        slow.choose(image + 0.1 * network.std * noise, label)
        sample = slow.here_and_near(image, label)
        both = (N * slow.hessian(data) - slow.hessian(sample)) / (N - 1)
        newton = torch.linalg.solve(both + LAMBDA * torch.eye(len(both)), slow.flat(sample[0]))
        gamma = 2 * 0.25 / (N**2 * LAMBDA**3)
        sigma = gamma / EPSILON * math.sqrt(2 * math.log(1.25 / DELTA))
        slow.move(newton / (N - 1) + sigma * torch.randn(len(newton), generator=generator))

    assert len(found.history) == 1 + 2
    assert_same(network, found.classifier, slow.network)
