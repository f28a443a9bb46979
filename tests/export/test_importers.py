"""Checkpoints of other toolkits: each layout is made from scratch, and its embeddings against a plain forward pass."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.commands import run_bot
from helpers.toolkits import (
    IMAGENET,
    MOBILE,
    SIZE,
    State,
    authors,
    conv,
    embedded,
    expected,
    fastreid,
    mobilenet,
    necked,
    non_local,
    norm,
    pictures,
    prefixed,
    resnest,
    resnet,
    torchreid,
)

from bot_deploy import open_embedder
from bot_deploy.artifacts import checkpoint
from bot_deploy.choices import TOOLKITS
from bot_deploy.commands.export import export_command
from bot_deploy.commands.import_ import import_command
from bot_deploy.errors import InputError
from bot_deploy.export.importers.checkpoint import import_checkpoint
from bot_deploy.export.importers.key_layouts import LAYOUTS, detect_backbone

MOBILE += [(6, 96, 1)] * 3 + [(6, 160, 2), *[(6, 160, 1)] * 2, (6, 320, 1)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def stored(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "theirs.pth")
    return folder / "theirs.pth"


PIXELS = {"mean": (120 / 255, 110 / 255, 100 / 255), "std": (60 / 255, 55 / 255, 50 / 255)}
UNPADDED = {"padded": False, **PIXELS}
# toolkit, backbone, its name in bot_deploy, file, prefix of the neck, settings of the forward pass, stem, last stride
CASES = {
    "authors": ("reid-strong-baseline", resnet, "resnet18", authors, "bottleneck", {"relu": False}, "no-relu", 1),
    "fast-reid": ("fast-reid", resnet, "resnet18", fastreid, "heads.bottleneck.0", UNPADDED, "unpadded-pool", 1),
    "fast-reid, 2020": (
        "fast-reid",
        resnet,
        "resnet18",
        lambda backbone: fastreid(backbone, neck="heads.bnneck", classifier="heads.classifier.weight"),
        "heads.bnneck",
        PIXELS,
        "torchvision",
        1,
    ),
    "fast-reid, IBN": (
        "fast-reid",
        lambda: resnet(ibn=True),
        "resnet18_ibn_a",
        lambda backbone: fastreid(backbone, classifier="heads.classifier.weight"),
        "heads.bottleneck.0",
        UNPADDED,
        "unpadded-pool",
        1,
    ),
    "fast-reid, MobileNetV2": (
        "fast-reid",
        mobilenet,
        "mobilenet_v2",
        lambda backbone: fastreid(backbone, 1280),
        "heads.bottleneck.0",
        PIXELS,
        "torchvision",
        2,
    ),
    "torchreid": ("torchreid", resnet, "resnet18", torchreid, None, {"last_stride": 2}, "torchvision", 2),
    "torchreid, IBN": (
        "torchreid",
        lambda: resnet(ibn=True),
        "resnet18_ibn_a",
        torchreid,
        None,
        {"last_stride": 2},
        "torchvision",
        2,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_layout_embeds_as_its_toolkit_does(case: str, tmp_path: Path) -> None:
    kind, make, arch, written, prefix, how, stem, last_stride = CASES[case]
    backbone = make()
    theirs = written(backbone)
    imported = import_checkpoint(stored(theirs, tmp_path), **SIZE)
    saved = imported.checkpoint
    assert imported.toolkit == kind
    assert (saved.contract.arch, saved.stem, saved.last_stride, saved.num_ids) == (arch, stem, last_stride, 9)
    assert (saved.neck, saved.contract.feature) == (("bnneck", "after") if prefix else ("none", "before"))
    assert saved.contract.size == (32, 16)
    assert saved.contract.mean == pytest.approx(how.get("mean", IMAGENET[0]))
    assert saved.contract.std == pytest.approx(how.get("std", IMAGENET[1]))

    images = pictures()
    neck = necked(theirs, prefix) if prefix else None
    vectors = embedded(saved, images)
    torch.testing.assert_close(vectors, expected(images, backbone, neck, **how), atol=2e-5, rtol=1e-4)
    assert float((vectors @ vectors.T).fill_diagonal_(0).max()) < 0.999  # the images have different embeddings
    if arch != "mobilenet_v2":  # every setting changes the embeddings
        for change in ({"relu": stem == "no-relu"}, {"padded": stem == "unpadded-pool"}):
            assert not torch.allclose(vectors, expected(images, backbone, neck, **{**how, **change}), atol=1e-3)

    again = import_checkpoint(tmp_path / "theirs.pth", kind, **SIZE).checkpoint
    assert again.contract == saved.contract


def test_a_resnet50_with_ibn_of_the_authors(tmp_path: Path) -> None:
    # Its file has the ReLU, and an ImageNet classifier that is never used.
    backbone = resnet(50, ibn=True)
    unused = {"base.fc.weight": torch.zeros(10, 2048), "base.fc.bias": torch.zeros(10)}
    theirs = authors(backbone, 2048)
    imported = import_checkpoint(stored({**theirs, **unused}, tmp_path), **SIZE)
    assert (imported.checkpoint.contract.arch, imported.checkpoint.stem) == ("resnet50_ibn_a", "torchvision")
    assert imported.unused_keys == tuple(unused)
    images = pictures()
    actual = embedded(imported.checkpoint, images)
    torch.testing.assert_close(actual, expected(images, backbone, necked(theirs, "bottleneck")), atol=2e-5, rtol=1e-4)


def resnet_nl(inner: int | None, *, ibn: bool = False) -> State:
    """ResNet-50 with non-local blocks of `inner` channels behind the last blocks of stages 2 and 3; None for half."""
    state = resnet(50, ibn=ibn)
    for stage, channels, count in ((2, 512, 2), (3, 1024, 3)):
        for index in range(count):
            state |= non_local(f"NL_{stage}.{index}", channels, inner or channels // 2)
    return state


def assert_same_embeddings(actual: torch.Tensor, wanted: torch.Tensor) -> None:
    cosines = (actual.double() * wanted.double()).sum(1) / actual.double().norm(dim=1) / wanted.double().norm(dim=1)
    assert float(cosines.min()) > 1 - 1e-6
    assert float((wanted @ wanted.T).fill_diagonal_(0).max()) < 0.999  # the images have different embeddings


def test_sbs_of_fast_reid(tmp_path: Path) -> None:
    # IBN, non-local blocks, GeM with a trained power, and an embedding of reduced length.
    backbone = resnet_nl(None, ibn=True)
    head = {"heads.bottleneck.0.weight": conv(64, 2048, 1), "heads.pool_layer.p": torch.tensor([2.7])}
    theirs = {**fastreid(backbone, 64, neck="heads.bottleneck.1"), **head}
    imported = import_checkpoint(stored(theirs, tmp_path), **SIZE)
    saved = imported.checkpoint
    assert (saved.contract.arch, saved.contract.dim, saved.pooling) == ("resnet50_nl_ibn_a", 64, "gem")
    assert (saved.neck, saved.contract.feature, saved.num_ids) == ("bnneck", "after", 9)
    assert imported.assumptions == ("stem unpadded-pool", "last stride 1")
    images = pictures()
    how: dict[str, Any] = {"power": 2.7, "reduction": head["heads.bottleneck.0.weight"], **UNPADDED}
    neck = necked(theirs, "heads.bottleneck.1")
    vectors = embedded(saved, images)
    assert_same_embeddings(vectors, expected(images, backbone, neck, **how))
    plain = {key: value for key, value in backbone.items() if not key.startswith("NL_")}
    for other in (expected(images, plain, neck, **how), expected(images, backbone, neck, **{**how, "power": 3})):
        assert float((vectors * other).sum(1).max()) < 1 - 1e-5  # blocks and power change the embeddings
    checkpoint.save(saved, tmp_path / "model.pt")
    torch.testing.assert_close(embedded(checkpoint.load(tmp_path / "model.pt"), images), vectors, atol=0, rtol=0)
    before = import_checkpoint(tmp_path / "theirs.pth", **SIZE, feature="before").checkpoint
    assert_same_embeddings(embedded(before, images), expected(images, backbone, None, **how))


@pytest.mark.parametrize("last_stride", [1, 2])
@pytest.mark.parametrize("has_non_local", [False, True])
def test_sbs_with_resnest(last_stride: int, has_non_local: bool, tmp_path: Path) -> None:
    # Without non-local blocks as sbs_S50, which trackers such as BoT-SORT are published with.
    backbone = resnest()
    for stage, channels, count in ((2, 512, 2), (3, 1024, 3)):
        for index in range(count * has_non_local):
            backbone |= non_local(f"NL_{stage}.{index}", channels, channels // 2)
    theirs = {**fastreid(backbone, 2048), "heads.pool_layer.p": torch.tensor([2.7])}
    imported = import_checkpoint(stored(theirs, tmp_path), **SIZE, last_stride=last_stride)
    saved = imported.checkpoint
    assert (saved.contract.arch, saved.stem, saved.pooling, saved.contract.dim) == (
        "resnest50_nl" if has_non_local else "resnest50",
        "torchvision",
        "gem",
        2048,
    )
    images, neck = pictures(), necked(theirs, "heads.bottleneck.0")
    how: dict[str, Any] = {"power": 2.7, "last_stride": last_stride, **PIXELS}
    vectors = embedded(saved, images)
    assert_same_embeddings(vectors, expected(images, backbone, neck, **how))
    other = expected(images, backbone, neck, **{**how, "last_stride": 3 - last_stride})
    assert float((vectors * other).sum(1).max()) < 1 - 1e-5


def test_the_published_resnests(tmp_path: Path) -> None:
    assert detect_backbone(prefixed("backbone.", resnest())) == "resnest50"
    with pytest.raises(InputError, match="a ResNeSt with IBN; convertible"):
        detect_backbone({**prefixed("backbone.", resnest()), "backbone.layer1.0.bn1.IN.weight": torch.zeros(32)})
    deeper = {f"backbone.layer3.{block}.conv3.weight": torch.zeros(1) for block in range(23)}
    with pytest.raises(InputError, match=r"a ResNet of 3\+4\+23\+3 blocks; convertible: .*ResNeSt-50"):
        detect_backbone({**prefixed("backbone.", resnest()), **deeper})


@pytest.mark.parametrize("kind", ["fast-reid", "reid-strong-baseline"])
def test_agw(kind: str, tmp_path: Path) -> None:
    # Non-local blocks of one channel. fast-reid's GeM has a fixed power of 3, that of AGW's authors is trained.
    backbone = resnet_nl(1)
    if kind == "fast-reid":
        theirs, how = fastreid(backbone, 2048), {"power": 3, **UNPADDED}
        neck, assumed = necked(theirs, "heads.bottleneck.0"), ("stem unpadded-pool", "last stride 1", "pooling gem")
    else:
        theirs, how = {**authors(backbone, 2048), "global_pool.p": torch.tensor([3.3])}, {"power": 3.3, "relu": False}
        neck = necked(theirs, "bottleneck")
        assumed = ("the normalisation of ImageNet", "stem no-relu", "last stride 1")
    imported = import_checkpoint(stored(theirs, tmp_path), **SIZE)
    assert (imported.toolkit, imported.checkpoint.contract.arch) == (kind, "resnet50_nl1")
    assert imported.assumptions == assumed
    images = pictures()
    assert_same_embeddings(embedded(imported.checkpoint, images), expected(images, backbone, neck, **how))


def test_the_pooling_can_be_given(tmp_path: Path) -> None:
    backbone = resnet()
    theirs = fastreid(backbone)
    path, neck, images = stored(theirs, tmp_path), necked(theirs, "heads.bottleneck.0"), pictures()
    average = import_checkpoint(path, **SIZE)
    assert "pooling average" in average.assumptions
    gem = import_checkpoint(path, **SIZE, pooling="gem")
    assert_same_embeddings(embedded(gem.checkpoint, images), expected(images, backbone, neck, power=3, **UNPADDED))
    assert gem.checkpoint.contract.fingerprint != average.checkpoint.contract.fingerprint
    with pytest.raises(InputError, match="unknown pooling 'max'; choose from average, gem"):
        import_checkpoint(path, pooling="max")
    trained = stored({**theirs, "heads.pool_layer.p": torch.tensor([2.7])}, tmp_path)
    with pytest.raises(InputError, match=r"unknown keys: heads\.pool_layer\.p$"):
        import_checkpoint(trained, pooling="average")


def test_a_reduction_without_a_neck(tmp_path: Path) -> None:
    backbone, reduction = resnet(), conv(32, 512, 1)
    theirs = {**prefixed("backbone.", backbone), "heads.bottleneck.0.weight": reduction}
    saved = import_checkpoint(stored(theirs, tmp_path), **SIZE).checkpoint
    assert (saved.neck, saved.contract.feature, saved.contract.dim) == ("none", "before", 32)
    images = pictures()
    wanted = expected(images, backbone, None, padded=False, reduction=reduction)
    assert_same_embeddings(embedded(saved, images), wanted)


def test_the_reduction_head_of_2020_is_refused(tmp_path: Path) -> None:
    # It has a batch-norm and a leaky ReLU between the reduction and BNNeck.
    head = {"heads.bottleneck.0.weight": conv(64, 512, 1), **norm("heads.bottleneck.1", 64)}
    theirs = {**fastreid(resnet(), 64, neck="heads.bnneck"), **head}
    with pytest.raises(InputError, match=r"unknown keys: heads\.bottleneck\.1\.weight"):
        import_checkpoint(stored(theirs, tmp_path))


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("parallel", [False, True])
def test_wrapped_parallel_and_half_precision_files(wrapper: str | None, parallel: bool, tmp_path: Path) -> None:
    state = authors(resnet())
    plain = import_checkpoint(stored(state, tmp_path), **SIZE).checkpoint
    content: Any = prefixed("module.", state) if parallel else state
    if wrapper:
        content = {"epoch": 3, wrapper: content, "optimizer": {"lr": 0.1}}
    assert import_checkpoint(stored(content, tmp_path), **SIZE).checkpoint.contract == plain.contract
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    loaded = import_checkpoint(stored(half, tmp_path), **SIZE).checkpoint
    assert {value.dtype for value in loaded.state.values()} == {torch.float32, torch.int64}
    torch.testing.assert_close(embedded(loaded, pictures()), embedded(plain, pictures()), atol=2e-3, rtol=0)


def test_safetensors(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch", reason="safetensors is not installed").save_file
    state = torchreid(resnet())
    save_file(state, tmp_path / "theirs.safetensors")
    loaded, plain = (
        import_checkpoint(file, **SIZE) for file in (tmp_path / "theirs.safetensors", stored(state, tmp_path))
    )
    assert loaded.checkpoint.contract == plain.checkpoint.contract


@pytest.mark.parametrize("written", [authors, fastreid])
def test_a_model_of_bgr_images_takes_rgb(written: Any, tmp_path: Path) -> None:
    backbone = resnet()
    theirs = written(backbone)
    neck = necked(theirs, "bottleneck" if written is authors else "heads.bottleneck.0")
    how = {"relu": False} if written is authors else UNPADDED
    imported = import_checkpoint(stored(theirs, tmp_path), **SIZE, color="BGR").checkpoint
    assert imported.contract.color == "RGB"
    rgb = pictures()
    bgr = rgb.flip(3)
    torch.testing.assert_close(embedded(imported, rgb), expected(bgr, backbone, neck, **how), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(embedded(imported, rgb), expected(rgb, backbone, neck, **how), atol=1e-3)


def test_settings_that_weights_do_not_show_can_be_given(tmp_path: Path) -> None:
    backbone = resnet()
    theirs = fastreid(backbone)
    path = stored(theirs, tmp_path)
    default = import_checkpoint(path, **SIZE)
    assert default.assumptions == ("stem unpadded-pool", "last stride 1", "pooling average")
    explicit = import_checkpoint(path, **SIZE, last_stride=2, stem="no-relu", feature="ft", pooling="average")
    assert explicit.assumptions == ()
    actual = embedded(explicit.checkpoint, pictures())
    how = {"relu": False, "last_stride": 2, **PIXELS}
    torch.testing.assert_close(actual, expected(pictures(), backbone, None, **how), atol=2e-5, rtol=1e-4)


def test_other_settings_are_another_model(tmp_path: Path) -> None:
    path = stored(authors(resnet()), tmp_path)
    options: list[dict[str, Any]] = [
        {},
        {"last_stride": 2},
        {"stem": "torchvision"},
        {"feature": "ft"},
        {"color": "BGR"},
    ]
    prints = {import_checkpoint(path, **SIZE, **option).checkpoint.contract.fingerprint for option in options}
    assert len(prints) == len(options)


def test_the_classifier_is_kept(tmp_path: Path) -> None:
    for written, key in ((authors, "classifier.weight"), (fastreid, "heads.weight"), (torchreid, "classifier.weight")):
        theirs = written(resnet())
        saved = import_checkpoint(stored(theirs, tmp_path), **SIZE).checkpoint
        assert torch.equal(saved.state["classifier.weight"], theirs[key])
        assert ("classifier.bias" in saved.state) == (written is torchreid)


@pytest.mark.parametrize("classes", [None, 0])
def test_a_file_without_a_classifier_gives_the_same_embeddings(classes: int | None, tmp_path: Path) -> None:
    theirs = fastreid(resnet())
    whole = import_checkpoint(stored(theirs, tmp_path), **SIZE).checkpoint
    del theirs["heads.weight"]
    if classes is not None:
        theirs["heads.weight"] = torch.zeros(classes, 512)
    imported = import_checkpoint(stored(theirs, tmp_path), **SIZE)
    assert imported.checkpoint.num_ids == 1
    assert not imported.checkpoint.state["classifier.weight"].any()
    assert "1 identity, because there is no classifier" in imported.assumptions
    assert imported.checkpoint.contract == whole.contract


def test_authors_without_a_neck(tmp_path: Path) -> None:
    backbone = resnet()
    theirs = {k: v for k, v in authors(backbone).items() if not k.startswith("bottleneck.")}
    path = stored({**theirs, "classifier.bias": torch.ones(9)}, tmp_path)
    saved = import_checkpoint(path, **SIZE).checkpoint
    assert (saved.neck, saved.contract.feature) == ("none", "before")
    assert saved.state["classifier.bias"].tolist() == [1] * 9
    images = pictures()
    torch.testing.assert_close(
        embedded(saved, images), expected(images, backbone, None, relu=False), atol=2e-5, rtol=1e-4
    )
    for feature in ("after", "fi"):
        with pytest.raises(InputError, match=r"theirs\.pth: it has no neck; take the feature before it"):
            import_checkpoint(path, feature=feature)


def test_the_feature_has_two_names(tmp_path: Path) -> None:
    path = stored(authors(resnet()), tmp_path)
    features = {name: import_checkpoint(path, **SIZE, feature=name) for name in ("after", "fi", "before", "ft")}
    assert [imported.checkpoint.contract.feature for imported in features.values()] == [
        "after",
        "after",
        "before",
        "before",
    ]
    assert features["before"].checkpoint.contract == features["ft"].checkpoint.contract
    with pytest.raises(InputError, match=r"theirs\.pth: unknown feature 'fx'; choose from after, before"):
        import_checkpoint(path, feature="fx")


def test_training_only_keys_are_listed_and_counters_may_be_missing(tmp_path: Path) -> None:
    state = fastreid(resnet(), classifier="heads.classifier.weight")
    plain = import_checkpoint(stored(state, tmp_path), **SIZE)
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    extra = {"heads.classifier.t": torch.zeros(1), "heads.classifier.bias": torch.zeros(9)}
    imported = import_checkpoint(stored({**state, **extra}, tmp_path), **SIZE)
    assert set(imported.unused_keys) == set(extra)
    torch.testing.assert_close(
        embedded(imported.checkpoint, pictures()), embedded(plain.checkpoint, pictures()), atol=0, rtol=0
    )


def test_without_pixel_mean_the_normalisation_of_imagenet_is_assumed(tmp_path: Path) -> None:
    state = {key: value for key, value in fastreid(resnet()).items() if not key.startswith("pixel_")}
    imported = import_checkpoint(stored(state, tmp_path), **SIZE)
    assert (imported.checkpoint.contract.mean, imported.checkpoint.contract.std) == IMAGENET
    assert "the normalisation of ImageNet" in imported.assumptions


def small(*keys: str) -> State:
    return {key: torch.zeros(1) for key in keys}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (small("backbone.0.weight", "b1_head.bnneck.weight"), r"several branches.*b1_head\.bnneck"),
        (small("backbone.0.weight", "b1_head.bottleneck.0.weight"), r"it is MGN, .* so name an \.onnx file"),
        (small("backbone.layer1.0.se.fc.0.weight"), r"squeeze-and-excitation.*se\.fc"),
        (small("base.layer1.0.se_module.fc1.weight"), r"squeeze-and-excitation.*se_module"),
        (small("conv1.weight", "fc.0.weight", "fc.1.running_mean"), r"resnet50_fc512.*fc\.0\.weight"),
        (small("conv1.weight", "layer1.2.IN.weight"), r"IBN-b.*layer1\.2\.IN\.weight"),
        (small("conv1.conv.weight", "conv2.0.conv1.weight"), r"torchreid's MobileNetV2.*conv1\.conv\.weight"),
        (small("conv1.conv.weight", "conv2.0.gate.fc1.weight"), r"it is OSNet, .* so name an \.onnx file"),
        (small("image_encoder.attnpool.k_proj.bias"), r"the ResNet of CLIP.*image_encoder\.attnpool"),
        (small("backbone.conv1.conv.weight"), r"OSNet.*backbone\.conv1\.conv\.weight"),
        (small("backbone.patch_embed.proj.weight"), r"vision transformer.*patch_embed"),
        (small("backbone.conv1.0.weight"), r"backbone cannot be imported: conv1\.0\.weight; convertible: ResNet-18"),
        (small("encoder.weight", "decoder.weight"), r"no known layout: encoder\.weight, decoder\.weight"),
        ({}, r"no known layout: none"),
        ({"epoch": 3, "net": {}}, r"epoch is a int, not a tensor.*under model or state_dict"),
    ],
)
def test_unsupported_networks_and_layouts_are_an_error_that_names_them(
    state: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"theirs\.pth: .*{message}"):
        import_checkpoint(stored(state, tmp_path))


def test_a_resnet152_is_recognised() -> None:
    from torchvision import models

    with torch.device("meta"):  # its weights would take seconds
        theirs = prefixed("backbone.", models.resnet152(weights=None).state_dict())
    assert detect_backbone(theirs) == "resnet152"


def test_a_resnet_of_other_blocks_is_refused(tmp_path: Path) -> None:
    counts = enumerate((3, 24, 36, 3), 1)
    keys = [f"layer{n}.{block}.conv{c}.weight" for n, count in counts for block in range(count) for c in (1, 3)]
    with pytest.raises(InputError, match=r"a ResNet of 3\+24\+36\+3 blocks; convertible"):
        import_checkpoint(stored(small("conv1.weight", *keys), tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(small("base.layer1.0.extra")), r"unknown keys: base\.layer1\.0\.extra$"),
        (lambda s: s.update(small("centers")), r"unknown keys: centers$"),
        (lambda s: s.pop("base.layer3.1.bn2.running_var"), r"missing keys: backbone\.layer3\.1\.bn2\.running_var$"),
        (lambda s: s.pop("bottleneck.running_mean"), r"missing keys: neck\.running_mean$"),
        (
            lambda s: s.update({"base.conv1.weight": torch.zeros(64, 1, 7, 7)}),
            r"keys of another shape: base\.conv1\.weight \[64, 1, 7, 7\] instead of \[64, 3, 7, 7\]$",
        ),
        (
            lambda s: s.update({"classifier.weight": torch.zeros(9, 64)}),
            r"keys of another shape: classifier\.weight \[9, 64\]",
        ),
    ],
)
def test_no_weight_is_ignored(change: Any, message: str, tmp_path: Path) -> None:
    state = authors(resnet())
    change(state)
    with pytest.raises(InputError, match=rf"theirs\.pth: its weights are not those of a resnet18; {message}"):
        import_checkpoint(stored(state, tmp_path))


def test_two_classifiers_are_an_error(tmp_path: Path) -> None:
    state = {**torchreid(resnet()), "fc.weight": torch.zeros(9, 512)}
    with pytest.raises(InputError, match=r"unknown keys: fc\.weight$"):
        import_checkpoint(stored(state, tmp_path))


@pytest.mark.parametrize(
    "pixels", [{"pixel_mean": torch.ones(3)}, {"pixel_mean": torch.ones(3), "pixel_std": torch.zeros(3)}]
)
def test_an_invalid_normalisation_is_an_error(pixels: State, tmp_path: Path) -> None:
    state = {key: value for key, value in fastreid(resnet()).items() if not key.startswith("pixel_")}
    with pytest.raises(InputError, match="pixel_mean and pixel_std"):
        import_checkpoint(stored({**state, **pixels}, tmp_path))


def test_the_wrong_toolkit_is_refused(tmp_path: Path) -> None:
    path = stored(authors(resnet()), tmp_path)
    with pytest.raises(InputError, match=r"none of its keys is fast-reid's: base\.conv1\.weight"):
        import_checkpoint(path, "fast-reid")
    with pytest.raises(InputError, match=r"backbone cannot be imported: base\."):
        import_checkpoint(path, "torchreid")
    with pytest.raises(InputError, match="choose from auto, reid-strong-baseline, fast-reid, torchreid"):
        import_checkpoint(path, "keras")


def test_our_own_checkpoint_needs_no_import(checkpoint_file: Path) -> None:
    with pytest.raises(InputError, match=r"model\.pt: is a checkpoint of bot_deploy already"):
        import_checkpoint(checkpoint_file)


class Touch:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def remedy(error: pytest.ExceptionInfo[InputError]) -> str:
    return "import torch; " + str(error.value).partition("is installed: ")[2]


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path = stored({"state_dict": authors(resnet()), "extra": Touch(tmp_path / "ran")}, tmp_path)
    with pytest.raises(InputError, match=r"theirs\.pth: .*could run code; it is refused\. If you trust it, save its"):
        import_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_the_remedy_for_a_numpy_number_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As torchreid writes files: the rank-1 beside the weights is a NumPy number.
    theirs = torchreid(resnet())
    path = stored({"state_dict": theirs, "epoch": 60, "rank1": np.float64(0.9)}, tmp_path)
    with pytest.raises(InputError, match="weights_only=False") as refused:
        import_checkpoint(path)
    monkeypatch.chdir(tmp_path)
    exec(remedy(refused), {})
    saved = import_checkpoint(tmp_path / "weights.pth", **SIZE).checkpoint
    assert torch.equal(saved.state["backbone.conv1.weight"], theirs["conv1.weight"])


def test_the_remedy_for_a_whole_network_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As the authors write files; here with a class that pickle can import.
    from torchvision import models

    network = models.resnet18(weights=None)
    path = stored(network, tmp_path)
    with pytest.raises(InputError, match="could run code") as refused:
        import_checkpoint(path)
    monkeypatch.chdir(tmp_path)
    exec(remedy(refused), {})
    saved = import_checkpoint(tmp_path / "weights.pth", **SIZE).checkpoint
    assert saved.num_ids == 1000
    assert torch.equal(saved.state["backbone.conv1.weight"], network.conv1.weight)


def test_no_such_file_and_damaged_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pth: no such file"):
        import_checkpoint(tmp_path / "absent.pth")
    (tmp_path / "odd.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"odd\.pth: "):
        import_checkpoint(tmp_path / "odd.pth")


def test_the_stem_travels_and_older_checkpoints_have_torchvisions(tmp_path: Path) -> None:
    saved = import_checkpoint(stored(authors(resnet()), tmp_path), **SIZE).checkpoint
    checkpoint.save(saved, tmp_path / "model.pt")
    loaded = checkpoint.load(tmp_path / "model.pt")
    assert (loaded.stem, loaded.contract) == ("no-relu", saved.contract)
    torch.testing.assert_close(embedded(loaded, pictures()), embedded(saved, pictures()), atol=0, rtol=0)
    fields = torch.load(tmp_path / "model.pt", weights_only=True)
    del fields["stem"]
    torch.save(fields, tmp_path / "model.pt")
    older = checkpoint.load(tmp_path / "model.pt")
    assert older.stem == "torchvision"
    actual, wanted = embedded(older, pictures()), embedded(dataclasses.replace(saved, stem="torchvision"), pictures())
    torch.testing.assert_close(actual, wanted, atol=0, rtol=0)


def test_every_toolkit_of_the_choices_has_a_layout() -> None:
    assert tuple(LAYOUTS) == TOOLKITS


def test_the_command_reports_layout_and_assumptions(tmp_path: Path) -> None:
    path = stored(fastreid(resnet(), classifier="heads.classifier.weight") | small("heads.classifier.t"), tmp_path)
    out = tmp_path / "new" / "model.pt"
    result = CliRunner().invoke(import_command, [str(path), "--out", str(out), "--size", "32x16"])
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "fast-reid: resnet18, 9 identities, embedding after BNNeck, 512 numbers" in result.stderr
    assert "last stride 1" in result.stderr
    assert "crops of 32x16" in result.stderr
    assert "left out, because only training needs it: heads.classifier.t" in result.stderr
    assert checkpoint.load(out).contract.size == (32, 16)


def test_older_options_do_the_same(tmp_path: Path) -> None:
    path = stored(fastreid(resnet()), tmp_path)
    for name, options in {
        "new": ["--size", "32x16", "--color", "BGR"],
        "old": ["--height", "32", "--width", "16", "--bgr"],
        "rgb": ["--size", "32x16"],
    }.items():
        result = CliRunner().invoke(import_command, [str(path), "--out", str(tmp_path / f"{name}.pt"), *options])
        assert result.exit_code == 0, result.output
    new, old, rgb = (checkpoint.load(tmp_path / f"{name}.pt") for name in ("new", "old", "rgb"))
    assert new.contract == old.contract != rgb.contract
    assert all(torch.equal(new.state[key], old.state[key]) for key in new.state)


@pytest.mark.parametrize(
    ("out", "message"),
    [("model.bin", r"model\.bin: checkpoints end in \.pt, model files in \.onnx"), ("theirs.pt", "the file to import")],
)
def test_the_command_refuses_an_unusable_out(out: str, message: str, tmp_path: Path) -> None:
    torch.save(small("conv1.weight"), tmp_path / "theirs.pt")
    before = (tmp_path / "theirs.pt").read_bytes()
    result = CliRunner().invoke(import_command, [str(tmp_path / "theirs.pt"), "--out", str(tmp_path / out)])
    assert isinstance(result.exception, InputError)
    with pytest.raises(InputError, match=message):
        raise result.exception
    assert (tmp_path / "theirs.pt").read_bytes() == before


def test_an_error_is_one_line(tmp_path: Path) -> None:
    path = stored({"state_dict": {}, "rank1": np.float64(0.5)}, tmp_path)
    result = run_bot("import", path, "--out", tmp_path / "model.pt")
    assert result.returncode == 2
    assert result.stderr.startswith(f"bot: {path}: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "model.pt").exists()


def test_from_import_to_a_verified_export(few_people: Path, tmp_path: Path) -> None:
    _, make, _, _, _, how, _, _ = CASES["fast-reid, IBN"]
    backbone, reduction = make(), conv(24, 512, 1)
    theirs = fastreid(backbone, 24, neck="heads.bottleneck.1")
    theirs |= {"heads.bottleneck.0.weight": reduction, "heads.pool_layer.p": torch.tensor([2.7])}
    sized = ["--size", "32x16"]
    result = CliRunner().invoke(
        import_command, [str(stored(theirs, tmp_path)), "--out", str(tmp_path / "model.pt"), *sized]
    )
    assert result.exit_code == 0, result.output
    arguments = [str(tmp_path / "model.pt"), "--data", str(few_people), "--out", str(tmp_path / "out"), "--json"]
    exported = CliRunner().invoke(export_command, arguments)
    assert exported.exit_code == 0, exported.output
    assert json.loads(exported.stdout)
    embedder = open_embedder(tmp_path / "out" / "model.onnx")
    assert embedder.contract.mean == pytest.approx(how.get("mean", IMAGENET[0]))
    neck = necked(theirs, "heads.bottleneck.1")
    wanted = expected(pictures(), backbone, neck, power=2.7, reduction=reduction, **how).numpy()
    np.testing.assert_allclose(embedder.run(pictures().numpy()), wanted, atol=2e-5)
