"""Anchors: the shipped sets, making, loading, selecting, and what is refused."""

import json
import shlex
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from properties import given
from properties import strategies as st
from stakes.anchors import encoders as module
from stakes.anchors.anchors import Anchors
from stakes.anchors.descriptions import SHIPPED, read_descriptions
from stakes.anchors.encoder import Encoder
from stakes.anchors.making import build, make_anchors
from stakes.errors import InputError

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship"]
CIFAR10 += ["truck"]
PETS = {"cat": ["soft fur", "whiskers"], "dog": ["wet nose", "leash"], "ship": ["steel hull"]}
COUNT = {"digits": 10, "cifar10": 10, "cifar100": 100}


def letters(limit: int = 40) -> Encoder:
    """Embed a text as its counts of letters; a letter is a token."""

    def tokenizer(texts: str | list[str], **options: object) -> dict[str, torch.Tensor | list[int]]:
        if isinstance(texts, str):
            return {"input_ids": [0] * len(texts)}
        ids = [[text.count(chr(97 + i)) for i in range(26)] for text in texts]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), 26)}

    card = {"encoder": "letters", "encoder_digest": "0" * 64, "max_tokens": limit}
    return Encoder(tokenizer, lambda ids, mask: ids.float(), "longest", limit, 26, card)


def random_anchors(c: int = 4, d: int = 7) -> Anchors:
    vectors = torch.randn(c, d, generator=torch.Generator().manual_seed(0))
    names = tuple(f"class {i}" for i in range(c))
    return Anchors(vectors, names, {"name": "random", "texts": {name: name for name in names}})


def mean_cosine(anchors: Anchors) -> float:
    cosines = anchors.vectors @ anchors.vectors.T
    return float(cosines[~torch.eye(len(anchors), dtype=torch.bool)].mean())


# The shipped sets


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_descriptions_are_complete_and_distinct(name: str) -> None:
    described = read_descriptions(name)
    assert len(described) == COUNT[name]
    everything = [attribute for attributes in described.values() for attribute in attributes]
    assert len({attribute.casefold() for attribute in everything}) == len(everything)
    assert all(6 <= len(attributes) <= 8 for attributes in described.values())
    for attribute in everything:
        assert attribute == " ".join(attribute.split())
        assert 4 <= len(attribute) <= 60
        assert ";" not in attribute


def test_shipped_classes_are_the_datasets() -> None:
    assert list(read_descriptions("digits")) == list("0123456789")
    assert list(read_descriptions("cifar10")) == CIFAR10
    hundred = list(read_descriptions("cifar100"))
    assert hundred == sorted(hundred)
    odd = {"aquarium_fish", "lawn_mower", "maple_tree", "oak_tree", "palm_tree", "pickup_truck"}
    assert odd | {"pine_tree", "sweet_pepper", "willow_tree"} == {n for n in hundred if "_" in n}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_anchors_were_made_from_the_shipped_descriptions(name: str) -> None:
    anchors = Anchors.load(name)
    described = read_descriptions(name)
    assert anchors.class_names == tuple(described)
    joined = {label: "; ".join(attributes) for label, attributes in described.items()}
    again = f"the descriptions of {name} changed: run {anchors.card['command']}"
    assert anchors.card["texts"] == joined, again
    assert anchors.vectors.shape == (COUNT[name], 384)
    assert anchors.vectors.dtype == torch.float32
    torch.testing.assert_close(anchors.vectors.norm(dim=1), torch.ones(COUNT[name]))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_card(name: str) -> None:
    card = Anchors.load(name).card
    assert card["name"] == name
    assert card["encoder"] == "sbert"
    assert card["model"] == "sentence-transformers/all-MiniLM-L6-v2"
    published = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert card["encoder_digest"] == published
    assert card["encoded_in_parts"] == []
    words = shlex.split(card["command"])
    assert words[:2] == ["stakes", "anchors"]
    shipped = "src/stakes/anchors/shipped"
    assert words[words.index("--descriptions") + 1] == f"{shipped}/descriptions/{name}.json"
    assert words[words.index("--out") + 1] == f"{shipped}/embeddings/{name}.safetensors"


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize(
    ("name", "one", "near", "far"),
    [
        ("cifar10", "cat", "dog", "ship"),
        ("cifar10", "automobile", "truck", "frog"),
        ("cifar10", "deer", "horse", "truck"),
        ("cifar100", "leopard", "tiger", "lamp"),
        ("cifar100", "rose", "tulip", "bus"),
        ("cifar100", "oak_tree", "maple_tree", "shark"),
        ("cifar100", "woman", "girl", "bridge"),
        ("cifar100", "bicycle", "motorcycle", "pear"),
        ("digits", "6", "9", "4"),
    ],
)
def test_neighbours_make_sense(centre: bool, name: str, one: str, near: str, far: str) -> None:
    anchors = Anchors.load(name)
    chosen = (anchors.centred() if centre else anchors).select([one, near, far]).vectors
    assert chosen[0] @ chosen[1] > chosen[0] @ chosen[2] + 0.1


def test_centring_spreads_the_anchors() -> None:
    anchors = Anchors.load("cifar10")
    centred = anchors.centred()
    assert mean_cosine(anchors) > 0.3
    assert abs(mean_cosine(centred)) < 0.15
    assert centred.card["centred"] is True
    assert "centred" not in anchors.card
    assert centred.digest() != anchors.digest()
    rows = anchors.vectors.double() - anchors.vectors.double().mean(0)
    expected = (rows / rows.norm(dim=1, keepdim=True)).float()
    torch.testing.assert_close(centred.vectors, expected)


def test_one_class_cannot_be_centred() -> None:
    with pytest.raises(InputError, match="cat"):
        Anchors(torch.ones(1, 3), ("cat",)).centred()


# Which set is for which classes


def test_for_classes_takes_their_order_and_spelling() -> None:
    asked = ["Truck", *CIFAR10[:-1]]
    anchors = Anchors.for_classes(asked)
    assert anchors is not None
    assert anchors.class_names == tuple(asked)
    assert torch.equal(anchors.vectors, Anchors.load("cifar10").vectors[[9, *range(9)]])
    hundred = [name.replace("_", " ").title() for name in read_descriptions("cifar100")]
    found = Anchors.for_classes(hundred)
    assert found is not None
    assert found.card["name"] == "cifar100"


@pytest.mark.parametrize("names", [CIFAR10[:9], [*CIFAR10, "fox"], ["cat"] * 10, []])
def test_for_classes_is_none_for_others(names: list[str]) -> None:
    assert Anchors.for_classes(names) is None


@given(st.permutations(range(5)), st.integers(1, 5))
def test_select_is_indexing(order: list[int], k: int) -> None:
    anchors = random_anchors(5)
    names = [anchors.class_names[i] for i in order[:k]]
    chosen = anchors.select([name.upper().replace(" ", "-") for name in names])
    assert torch.equal(chosen.vectors, anchors.vectors[order[:k]])
    assert list(chosen.card["texts"].values()) == names


def test_select_says_which_classes_the_anchors_are_for() -> None:
    with pytest.raises(InputError, match=r"fox, wolf.*airplane, .*, truck"):
        Anchors.load("cifar10", ["cat", "fox", "wolf"])
    with pytest.raises(InputError, match=r"the 100 classes apple, .* and 90 more"):
        Anchors.load("cifar100").select(["airplane"])


# What is refused


@pytest.mark.parametrize(
    ("vectors", "names", "message"),
    [
        ([[1.0, 0.0], [0.0, 0.0]], "ab", "anchor of b is zero or not finite"),
        ([[float("nan"), 1.0], [1.0, 0.0]], "ab", "anchor of a is zero or not finite"),
        ([[float("inf"), 1.0], [1.0, 0.0]], "ab", "anchor of a is zero or not finite"),
        ([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], "abc", "a and c have the same anchor"),
        ([[1.0, 0.0], [0.0, 1.0]], "abc", r"shape \(2, 2\) for 3 classes: give one row"),
        ([1.0, 0.0], "ab", r"shape \(2,\) for 2 classes"),
        ([[1.0, 0.0], [0.0, 1.0]], "aa", "class a appears more than once"),
    ],
)
def test_unusable_rows(vectors: list[list[float]], names: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Anchors(torch.tensor(vectors), tuple(names))


def test_same_anchor_is_found_among_many() -> None:
    vectors = torch.randn(1200, 16, generator=torch.Generator().manual_seed(0))
    vectors[1100] = 3 * vectors[700]
    with pytest.raises(InputError, match="700 and 1100 have the same anchor"):
        Anchors(vectors, tuple(str(i) for i in range(1200)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["cat"]', "must be an object"),
        ("{}", "must be an object"),
        ('{"cat": []}', '"cat" needs a list of at least one attribute'),
        ('{"cat": "soft fur"}', '"cat" needs a list'),
        ('{"cat": {"a": 1}}', '"cat" needs a list'),
        ('{"dog": ["nose"], "cat": ["fur", 3]}', '"cat" has the attribute 3, which is not text'),
        ('{"cat": ["fur", " "]}', "\"cat\" has the attribute ' ', which is not text"),
        ('{"cat": ["fur"], "cat": ["tail"]}', "describes cat more than once"),
        ('{"cat": ["fur"', r"words.json is not JSON \(.*line 1"),
    ],
)
def test_unusable_descriptions(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "words.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_descriptions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_descriptions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing"):
        read_descriptions("nothing")
    (tmp_path / "words.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no text in UTF-8"):
        read_descriptions(tmp_path / "words.json")


# Making


def test_make_anchors_encodes_the_joined_attributes() -> None:
    anchors = make_anchors(PETS, letters(), class_names=["ship", "Cat"], command="me", name="pets")
    expected = letters().encode(["steel hull", "soft fur; whiskers"])
    torch.testing.assert_close(anchors.vectors, expected)
    assert anchors.class_names == ("ship", "Cat")
    assert anchors.card["texts"] == {"ship": "steel hull", "Cat": "soft fur; whiskers"}
    assert anchors.card["encoder"] == "letters"
    assert (anchors.card["command"], anchors.card["name"]) == ("me", "pets")
    assert len(anchors.card["date"]) == 10
    assert make_anchors(PETS, letters()).class_names == ("cat", "dog", "ship")


def test_make_anchors_says_what_was_encoded_in_parts() -> None:
    assert make_anchors(PETS, letters()).card["encoded_in_parts"] == []
    assert make_anchors(PETS, letters(limit=16)).card["encoded_in_parts"] == ["cat"]


MANY = {"cat": ["soft fur", "whiskers", "tail"], "dog": ["wet nose", "leash"]}


def test_several_anchors_per_class(tmp_path: Path) -> None:
    anchors = make_anchors(MANY, letters(), per_class=2)
    dealt = ["soft fur; tail", "whiskers", "wet nose", "leash"]
    torch.testing.assert_close(anchors.vectors, letters().encode(dealt))
    assert (len(anchors), anchors.class_names) == (2, ("cat", "dog"))
    assert anchors.card["texts"]["cat"] == "soft fur; whiskers; tail"
    turned = anchors.select(["Dog", "cat"])
    assert torch.equal(turned.vectors, anchors.vectors[[2, 3, 0, 1]])
    assert turned.per_class == anchors.centred().per_class == 2
    anchors.save(tmp_path / "a.safetensors")
    loaded = Anchors.load(tmp_path / "a.safetensors", ["dog"])
    assert torch.equal(loaded.vectors, anchors.vectors[2:])
    assert make_anchors(MANY, letters(limit=13), per_class=2).card["encoded_in_parts"] == ["cat"]


def test_several_anchors_that_do_not_add_up() -> None:
    with pytest.raises(InputError, match=r"dog .*3"):
        make_anchors(MANY, letters(), per_class=3)
    with pytest.raises(InputError, match="0 anchors per class: give at least 1"):
        make_anchors(MANY, letters(), per_class=0)
    with pytest.raises(InputError, match=r"\(3, 5\).* 2 classes"):
        Anchors(torch.eye(3, 5), ("a", "b"), per_class=2)
    with pytest.raises(InputError, match="of b "):
        Anchors(torch.eye(4, 3), ("a", "b"), per_class=2)


def test_make_anchors_refuses() -> None:
    with pytest.raises(InputError, match="fox, wolf"):
        make_anchors(PETS, letters(), class_names=["cat", "fox", "wolf"])
    with pytest.raises(InputError, match="cat and kitten"):
        make_anchors({**PETS, "kitten": PETS["cat"]}, letters())
    with pytest.raises(InputError, match='"cat" needs a list'):
        make_anchors({"cat": "fur"}, letters())


def test_head_rows() -> None:
    weight = torch.nn.Linear(6, 3).weight
    before = weight.detach().clone()
    anchors = Anchors.from_head(weight, ["a", "b", "c"])
    torch.testing.assert_close(anchors.vectors, torch.nn.functional.normalize(before))
    assert not anchors.vectors.requires_grad
    assert torch.equal(weight, before)
    assert "own head" in anchors.card["encoder"]
    assert anchors.card["name"] == "head"
    with pytest.raises(InputError, match="row"):
        Anchors.from_head(weight, ["a", "b"])


# Files


def test_saved_and_loaded_are_the_same(tmp_path: Path) -> None:
    anchors = random_anchors()
    path = tmp_path / "new" / "a.safetensors"
    anchors.save(path)
    loaded = Anchors.load(path)
    assert torch.equal(loaded.vectors, anchors.vectors)
    assert loaded.class_names == anchors.class_names
    assert loaded.card == anchors.card
    assert loaded.digest() == anchors.digest()
    assert Anchors.load(str(path), ["class 2"]).class_names == ("class 2",)
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first
    assert list(path.parent.iterdir()) == [path]


def test_digest_sees_vectors_names_and_order() -> None:
    anchors = random_anchors()
    other = Anchors(anchors.vectors, ("x", *anchors.class_names[1:]))
    turned = anchors.select(anchors.class_names[::-1])
    assert len({anchors.digest(), other.digest(), turned.digest()}) == 3
    assert Anchors(anchors.vectors, anchors.class_names).digest() == anchors.digest()


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_plain_vectors_need_class_names(tmp_path: Path, suffix: str) -> None:
    vectors = 3 * torch.eye(3, 5)
    path = tmp_path / f"plain{suffix}"
    if suffix == ".npy":
        np.save(path, vectors.double().numpy())
    else:
        save_file({"whatever": vectors}, path)
    anchors = Anchors.load(path, ["a", "b", "c"])
    torch.testing.assert_close(anchors.vectors, torch.eye(3, 5))
    assert anchors.class_names == ("a", "b", "c")
    assert anchors.card["name"] == "plain"
    with pytest.raises(InputError, match="class names"):
        Anchors.load(path)
    with pytest.raises(InputError, match=r"\(3, 5\).* 2 classes"):
        Anchors.load(path, ["a", "b"])


def test_unreadable_files(tmp_path: Path) -> None:
    names = ["a", "b"]
    with pytest.raises(InputError, match=r"cifar11.*digits, cifar10, cifar100"):
        Anchors.load("cifar11")
    with pytest.raises(InputError, match=r"gone\.npy: no such file"):
        Anchors.load(tmp_path / "gone.npy")
    for suffix, message in ((".npy", "not an .npy file"), (".safetensors", "cannot be read as")):
        (tmp_path / f"bad{suffix}").write_text("nonsense")
        with pytest.raises(InputError, match=message):
            Anchors.load(tmp_path / f"bad{suffix}", names)
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"not an \.npy file of numbers"):
        Anchors.load(tmp_path / "pickled.npy", names)
    save_file({"one": torch.eye(2), "two": torch.eye(2)}, tmp_path / "two.safetensors")
    with pytest.raises(InputError, match=r'"anchors".*one, two'):
        Anchors.load(tmp_path / "two.safetensors", names)
    save_file({"anchors": torch.eye(2)}, tmp_path / "odd.safetensors", metadata={"stakes": "{}"})
    with pytest.raises(InputError, match="anchors file"):
        Anchors.load(tmp_path / "odd.safetensors")


def test_save_wants_the_suffix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"written as \.safetensors: rename"):
        random_anchors().save(tmp_path / "a.pt")


# The command's work


def test_build_writes_anchors_that_say_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(source: str, *, download: bool) -> Encoder:
        asked.append((source, download))
        return letters()

    monkeypatch.setitem(module.ENCODERS, "sbert", load)
    words = tmp_path / "my pets.json"
    words.write_text(json.dumps(PETS))
    out = tmp_path / "pets.safetensors"
    made = build(words, "sbert", "a/model", out, download=True)
    loaded = Anchors.load(out)
    assert loaded.digest() == made.digest() == make_anchors(PETS, letters()).digest()
    assert loaded.card["name"] == "pets"
    assert shlex.split(loaded.card["command"]) == [
        *["stakes", "anchors", "--descriptions", str(words), "--encoder", "sbert"],
        *["--encoder-path", "a/model", "--out", str(out), "--download"],
    ]
    with pytest.raises(InputError, match=r"exists already: .* --overwrite"):
        build(words, "sbert", "a/model", out)
    assert asked == [("a/model", True)]
    build(words, "sbert", "a/model", out, overwrite=True)
    words.write_text(json.dumps(MANY))
    several = build(words, "sbert", "a/model", out, per_class=2, overwrite=True)
    assert several.card["command"].endswith("--per-class 2 --overwrite")
    asked.pop()
    assert asked == [("a/model", True), ("a/model", False)]


def test_build_refuses_before_it_loads_an_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(source: str, *, download: bool) -> Encoder:
        raise AssertionError("loaded the encoder")

    monkeypatch.setitem(module.ENCODERS, "sbert", load)
    good = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match=r"word2vec.*clip, siglip, sbert"):
        build("digits", "word2vec", "x", good)
    with pytest.raises(InputError, match=r"written as \.safetensors"):
        build("digits", "sbert", "x", tmp_path / "a.npy")
    with pytest.raises(InputError, match="with fewer than 9 attributes"):
        build("digits", "sbert", "x", good, per_class=9)
    with pytest.raises(InputError, match="no such file"):
        build(tmp_path / "gone.json", "sbert", "x", good)
    assert not good.exists()


def test_package_holds_the_data() -> None:
    for name in SHIPPED:
        assert (
            resources.files("stakes.anchors") / "shipped" / "embeddings" / f"{name}.safetensors"
        ).is_file()
        assert (
            resources.files("stakes.anchors") / "shipped" / "descriptions" / f"{name}.json"
        ).is_file()
