"""The defaults of the methods with retained data are what their public code runs with."""

import pytest

from stakes import METHODS
from stakes.methods import PRESETS

PUBLISHED = {
    "salun": {
        "epochs": 10, "lr": 0.013, "momentum": 0.9, "weight_decay": 5e-4, "retain_batch": 256,
        "forget_batch": 256, "saliency": 0.5, "augment": True,
    },
    "finetune": {
        "epochs": 10, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "retain_batch": 256,
        "augment": True,
    },
    "retrain": {
        "epochs": 30, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "retain_batch": 128,
        "augment": True,
    },
    "amnesiac": {"epochs": 10, "lr": 1e-3, "retain_batch": 64},
    "ssd": {"alpha": 10.0, "dampening": 1.0, "importance_batch": 128},
    "scrub": {
        "epochs": 3, "max_epochs": 2, "optimizer": "sgd", "lr": 5e-4, "momentum": 0.9,
        "weight_decay": 5e-4, "temperature": 4.0, "kl_weight": 0.001, "retention_weight": 0.99,
        "retain_batch": 256, "forget_batch": 512, "decay_after": "3 5 9",
    },
    "unsir": {
        "retain_samples": 10_000, "retain_batch": 256, "noise_images": 256, "noise_copies": 20,
        "noise_steps": 40, "noise_lr": 0.1, "noise_penalty": 0.1, "impair_lr": 0.02,
        "repair_lr": 0.01,
    },
    "lotus": {
        "epochs": 10, "retain_share": 0.3, "retain_batch": 128, "lr": 1e-4, "weight_decay": 5e-4,
        "alpha": 2.0, "augment": True,
    },
    "bad_teacher": {
        "epochs": 1, "retain_share": 0.3, "retain_batch": 256, "lr": 1e-4, "temperature": 1.0,
    },
    "sfron": {
        "iterations": 1500, "forget_every": 5, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4,
        "alpha": 25.0, "adaptivity": 0.5, "threshold": 1.0, "max_norm": 7.0, "retain_batch": 128,
        "forget_batch": 128, "augment": True,
    },
    "lcodec": {
        "perturbations": 1000, "noise": 0.1, "damping": 0.01, "epsilon": 0.1, "delta": 0.01,
        "max_drop": 5.0,
    },
}  # fmt: skip
PRESETS_OF_SCRUB = {
    "few_images": {
        "epochs": 5, "max_epochs": 3, "optimizer": "sgd", "lr": 5e-4, "momentum": 0.9,
        "weight_decay": 5e-4, "temperature": 4.0, "kl_weight": 0.5, "retention_weight": 1.0,
        "retain_batch": 32, "forget_batch": 16, "decay_after": "3 5 9",
    },
    "small_scale": {
        "epochs": 10, "max_epochs": 3, "optimizer": "adam", "lr": 5e-4, "weight_decay": 0.1,
        "temperature": 2.0, "kl_weight": 0.5, "retention_weight": 1.0, "retain_batch": 32,
        "forget_batch": 64, "decay_after": "5 8 9",
    },
}  # fmt: skip
OURS = {"retain_samples": 0, "max_steps": 0, "batch_norm": "train"}  # all data, to the end


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_are_published(name):
    method = METHODS[name]()
    wanted = OURS | PUBLISHED[name]
    known = {field: getattr(method, field) for field in wanted if hasattr(method, field)}
    if name == "lcodec":  # its Hessian is of a bounded sample
        assert known.pop("retain_samples") == 1000
    assert known == {field: wanted[field] for field in known}
    assert PUBLISHED[name].keys() <= vars(method).keys()


@pytest.mark.parametrize("preset", PRESETS["scrub"])
def test_presets_of_scrub_are_published(preset):
    method = PRESETS["scrub"][preset]()
    known = {field: getattr(method, field) for field in PRESETS_OF_SCRUB[preset]}
    assert known == PRESETS_OF_SCRUB[preset]
