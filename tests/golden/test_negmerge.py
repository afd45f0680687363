import torch
from torch.nn import functional as F

from golden.slow import PlainSGD, assert_same, index_batches
from stakes.data.augment import jitter
from stakes.methods import NegMerge


def test_negmerge_subtracts_what_all_fine_tunings_agree_on(network, forget):
    method = NegMerge(tune_steps=5, forget_batch=4, max_steps=1)
    result = method(network, forget, seed=3)
    data, generator = forget.in_one_order(), torch.Generator().manual_seed(3)
    tuned = []
    for rate in (1.5e-3, 1.5e-3, 1.5e-3, 3e-3, 3e-3, 3e-3, 6e-3, 6e-3, 6e-3):
        other = network.copy().eval()
        optimizer = PlainSGD(other.parameters(), lr=rate, momentum=0.9)
        batches = index_batches(6, 4, generator)
        for _ in range(5):
            chosen = next(batches)
            shown = jitter(data.images, chosen, generator)
            optimizer.step(F.cross_entropy(other(shown), data.labels[chosen]))
        tuned.append(dict(other.named_parameters()))
    slow = network.copy()
    with torch.no_grad():
        for name, parameter in slow.named_parameters():
            moves = torch.stack([one[name] - parameter for one in tuned])
            for place in torch.cartesian_prod(*map(torch.arange, parameter.shape)).tolist():
                index = tuple(place) if isinstance(place, list) else (place,)
                own = moves[(slice(None), *index)]
                if bool((own > 0).all()) or bool((own < 0).all()):
                    parameter[index] -= 0.1 * own.mean()
    assert_same(network, result.classifier, slow)
