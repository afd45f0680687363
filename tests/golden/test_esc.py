import torch

from golden.slow import assert_same
from stakes.methods import ESC


def test_esc_takes_the_first_directions_out_of_the_head(network, forget):
    result = ESC(share=0.25)(network, forget, seed=3)  # 2 of 8 features; 1.5 % are less than one
    slow = network.copy().eval()
    features = slow.features(forget.in_one_order().images).detach()
    _, vectors = torch.linalg.eigh(features.T @ features)
    for direction in vectors.T[-2:]:
        for row in slow.head.weight.data:
            row -= (row @ direction) * direction
    assert_same(network, result.classifier, slow)
    assert len(result.history) == 2  # the start, and one number of directions


def test_it_projects_onto_the_other_directions_as_the_authors_code_does(network, forget):
    result = ESC(share=0.25)(network, forget, seed=3)
    images = forget.in_one_order().images
    features = network.features(images).detach()
    padded = torch.cat([features, torch.zeros(50, 8)])  # there, retained images are rows of zeros
    others = torch.linalg.svd(padded.T, full_matrices=False).U[:, 2:]
    expected = network.head(features @ others @ others.T)
    torch.testing.assert_close(result.classifier(images), expected, rtol=0, atol=1e-9)


def test_the_published_share_is_seven_of_512_directions(network):
    assert int(ESC().share * 512) == 7
