"""Encoders, with tiny models built from configs and tokenizers made here: no network."""

import importlib
import io
import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from stakes.anchors import encoders
from stakes.anchors.encoder import Encoder
from stakes.anchors.encoders import ENCODERS, load_clip, load_sbert, load_siglip
from stakes.cli import commands
from stakes.errors import InputError
from stakes.files import file_digest

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

KINDS = ("clip", "siglip", "sbert")  # those of transformers
WORDS = ["small", "big", "red", "green", "soft", "furry", "tail", "wing", "wheel", "round"]
WORDS += ["long", "body", "on", "a", "the", "with", ";", ","]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
LIMIT = 12
SHORT = "a small furry body"
LONG = "soft round body; long red tail; small green wing; big wheel on the body; furry"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a test asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def save_tokenizer(folder: Path, limit: int = LIMIT) -> None:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    base = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    base.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    base.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=base,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=limit,
    ).save_pretrained(folder)


def tiny(kind: str, folder: Path) -> Path:
    """Save a tiny model of this kind, d = 6 for clip, 8 otherwise."""
    text = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": LIMIT,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    vision = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "clip":
            config = transformers.CLIPConfig(
                text_config=text, vision_config=vision, projection_dim=6
            )
            model = transformers.CLIPModel(config)
        elif kind == "siglip":
            config = transformers.SiglipConfig(text_config=text, vision_config=vision)
            model = transformers.SiglipModel(config)
        else:
            model = transformers.BertModel(transformers.BertConfig(**text))
        # Initial weights are so small that every text would look alike.
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    return {kind: tiny(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def words(limit: int = 5, vector: torch.Tensor | None = None) -> Encoder:
    """Count words as tokens (no special ones) and embed a text as the sum of its words' axes."""
    axes = ["red", "tail", "wing", "wheel", "body"]

    def tokenizer(texts: str | list[str], **options: object) -> dict[str, torch.Tensor | list[int]]:
        if isinstance(texts, str):
            return {"input_ids": [0] * len(texts.replace(";", " ").split())}
        ids = [[text.count(axis) for axis in axes] for text in texts]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), 5)}

    def embed(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return ids.float() if vector is None else vector.expand(len(ids), -1)

    return Encoder(tokenizer, embed, "longest", limit, 5, {"encoder": "words"})


@pytest.mark.parametrize(("kind", "width"), [("clip", 6), ("siglip", 8), ("sbert", 8)])
def test_rows_are_unit_differ_and_repeat(folders: dict[str, Path], kind: str, width: int) -> None:
    encoder = ENCODERS[kind](folders[kind])
    texts = [SHORT, LONG, "red wheel"]
    rows = encoder.encode(texts)
    assert rows.shape == (3, width) == (3, encoder.width)
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    assert (rows @ rows.T)[0, 2] < 0.999
    assert torch.equal(rows, ENCODERS[kind](str(folders[kind])).encode(texts))
    assert encoder.encode([]).shape == (0, width)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_batch_nor_order_matters(folders: dict[str, Path], kind: str) -> None:
    encoder = ENCODERS[kind](folders[kind])
    texts = [f"{a} {b}" for a in WORDS[:7] for b in WORDS[:7]]
    rows = encoder.encode(texts)
    torch.testing.assert_close(rows, encoder.encode(texts[::-1]).flip(0))
    torch.testing.assert_close(rows[40:41], encoder.encode([texts[40]]))
    torch.testing.assert_close(rows[:1], encoder.encode([texts[0], LONG])[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_card_names_model_weights_and_limit(folders: dict[str, Path], kind: str) -> None:
    card = ENCODERS[kind](folders[kind]).card
    assert card["encoder"] == kind
    assert card["model"] == folders[kind].name
    assert card["encoder_digest"] == file_digest(folders[kind] / "model.safetensors")
    assert card["max_tokens"] == LIMIT
    assert "split between attributes" in card["long_texts"]
    json.dumps(card)


def test_clip_equals_the_models_own_text_features(folders: dict[str, Path]) -> None:
    model = transformers.CLIPModel.from_pretrained(folders["clip"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["clip"])
    with torch.no_grad():
        output = model.get_text_features(**tokenizer([SHORT], return_tensors="pt"))
    expected = getattr(output, "pooler_output", output)
    rows = load_clip(folders["clip"]).encode([SHORT])
    torch.testing.assert_close(rows, torch.nn.functional.normalize(expected))


def test_siglip_pads_to_full_length_without_mask(folders: dict[str, Path]) -> None:
    model = transformers.SiglipModel.from_pretrained(folders["siglip"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["siglip"])
    ids = tokenizer([SHORT], padding="max_length", max_length=LIMIT, return_tensors="pt")
    with torch.no_grad():
        output = model.get_text_features(input_ids=ids["input_ids"])
    expected = getattr(output, "pooler_output", output)
    rows = load_siglip(folders["siglip"]).encode([SHORT])
    torch.testing.assert_close(rows, torch.nn.functional.normalize(expected))


def test_sbert_is_the_mean_over_real_tokens(folders: dict[str, Path]) -> None:
    model = transformers.BertModel.from_pretrained(folders["sbert"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["sbert"])
    tokens = tokenizer(SHORT, return_tensors="pt")
    with torch.no_grad():
        states = model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state
    expected = torch.nn.functional.normalize(states[0].mean(0), dim=0)
    # Beside a longer text the short one is padded: the padding must not count.
    rows = load_sbert(folders["sbert"]).encode([SHORT, "a small furry body with a long red tail"])
    torch.testing.assert_close(rows[0], expected)


def test_features_as_tensor_or_object() -> None:
    features = torch.ones(2, 3)
    assert torch.equal(encoders._pooled(features), features)
    assert torch.equal(encoders._pooled(SimpleNamespace(pooler_output=features)), features)


def test_long_text_is_the_weighted_mean_of_its_parts() -> None:
    encoder = words(limit=5)
    text = "red red tail; wing; wheel body body"  # parts: 3 + 1 words, then 3
    assert encoder.cut(["red tail", text]) == [1]
    part = torch.nn.functional.normalize(
        torch.tensor([[2.0, 1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 2.0]])
    )
    expected = torch.nn.functional.normalize(2 * part[0] + 1 * part[1], dim=0)
    torch.testing.assert_close(encoder.encode([text])[0], expected)


def test_every_attribute_of_a_long_text_counts(folders: dict[str, Path]) -> None:
    encoder = load_clip(folders["clip"])
    assert encoder.cut([SHORT, LONG]) == [1]
    first, second = encoder.encode([LONG, LONG.replace("furry", "green")])
    assert not torch.allclose(first, second, atol=1e-4)


def test_attribute_longer_than_the_limit_is_refused() -> None:
    with pytest.raises(
        InputError, match='"a red tail with a wing" has 6 tokens, but the encoder takes 5'
    ):
        words(limit=5).encode(["red; a red tail with a wing"])


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="empty"):
        words().encode(["red", text])


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_unusable_vector_is_refused(value: float) -> None:
    with pytest.raises(InputError, match='no usable vector for "red"'):
        words(vector=torch.full((1, 5), value)).encode(["red"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "a/b/c", Path("nowhere")])
def test_missing_folder(kind: str, source: str | Path) -> None:
    with pytest.raises(InputError, match=f"there is no folder {source}"):
        ENCODERS[kind](source)


def test_hub_name_is_not_fetched_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(name: str, *, local_files_only: bool, allow_patterns: list[str]) -> str:
        asked.append((name, local_files_only))
        raise FileNotFoundError("not in the cache")

    hub = importlib.import_module("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    with pytest.raises(InputError, match=r"someone/model.*--download"):
        load_sbert("someone/model")
    with pytest.raises(InputError, match=r"someone/model.*not in the cache"):
        load_sbert("someone/model", download=True)
    assert asked == [("someone/model", True), ("someone/model", False)]


def test_hub_name_in_an_empty_cache_without_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="downloaded"):
        load_sbert("nobody-has-this-name/nor-this-model")


def test_hub_model_goes_by_its_name(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = importlib.import_module("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda *a, **k: str(folders["sbert"]))
    assert load_sbert("someone/model").card["model"] == "someone/model"


def test_local_folder_comes_before_the_hub(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders["sbert"].parent)
    assert load_sbert(folders["sbert"].name, download=True).width == 8


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        load_clip(tmp_path)


def test_folder_without_weights(tmp_path: Path, folders: dict[str, Path]) -> None:
    (tmp_path / "config.json").write_bytes((folders["clip"] / "config.json").read_bytes())
    with pytest.raises(InputError, match="weights"):
        load_clip(tmp_path)


def test_another_kind_of_model_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"siglip.*clip.*siglip"):
        load_clip(folders["siglip"])
    with pytest.raises(InputError, match="for sbert"):
        load_sbert(folders["clip"])
    with pytest.raises(InputError, match=r"bert.*siglip.*sbert"):
        load_siglip(folders["sbert"])


def test_a_model_that_reads_no_text_is_no_encoder(tmp_path: Path) -> None:
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1])
    transformers.ResNetModel(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"type resnet, which reads no text"):
        load_sbert(tmp_path)
    with pytest.raises(InputError, match=r"resnet, not one for clip.*if it reads text"):
        load_clip(tmp_path)


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    folder = tiny("clip", tmp_path / "clip")
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"text_projection\.weight"):
        load_clip(folder)


def test_sbert_does_not_need_the_pooler(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = tiny("sbert", tmp_path / "sbert")
    tensors = load_file(folder / "model.safetensors")
    rest = {name: value for name, value in tensors.items() if "pooler." not in name}
    assert len(rest) < len(tensors)
    save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
    rows = load_sbert(folder).encode([SHORT])
    torch.testing.assert_close(rows, load_sbert(folders["sbert"]).encode([SHORT]))


def test_sbert_reads_its_folders_settings(tmp_path: Path) -> None:
    folder = tiny("sbert", tmp_path / "sbert")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    encoder = load_sbert(folder)
    assert encoder.max_tokens == encoder.card["max_tokens"] == 7
    assert encoder.cut(["a red tail", "a red tail with a wing"]) == [1]
    (folder / "1_Pooling").mkdir()
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    with pytest.raises(InputError, match="mean"):
        load_sbert(folder)
    pooling.write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]')
    with pytest.raises(InputError, match="pooling"):
        load_sbert(folder)


def test_half_precision_weights_are_computed_in_float32(tmp_path: Path) -> None:
    folder = tiny("clip", tmp_path / "clip")
    transformers.CLIPModel.from_pretrained(folder).half().save_pretrained(folder)
    rows = load_clip(folder).encode([SHORT])
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(1))


def test_message_without_transformers(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    for kind in KINDS:
        with pytest.raises(InputError, match=r'pip install "stakes\[text\]"'):
            ENCODERS[kind](folders[kind])


def test_code_in_a_folder_is_not_run_even_where_something_answers_yes(
    tmp_path, monkeypatch, capsys
):
    folder, ran = tmp_path / "enc", tmp_path / "ran"
    folder.mkdir()
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass C: ...\n")
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.C"}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\ny\n" * 50))  # as in `yes | stakes ...`
    words = f"anchors --descriptions digits --encoder-path {folder} --encoder sbert"
    assert commands.main([*words.split(), "--out", str(tmp_path / "a.safetensors")]) == 2
    assert not ran.exists()
    said = capsys.readouterr()
    assert "y/N" not in said.out + said.err
    assert "enc" in said.err
