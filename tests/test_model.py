"""The networks: last stride, keys, neck, and the inference graph."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from bot_deploy.artifacts.checkpoint import contract_of
from bot_deploy.artifacts.contract import Contract
from bot_deploy.errors import InputError
from bot_deploy.model import BACKBONES, IBN, L2_LENGTH, STEMS, GeM, InferenceGraph, NonLocal, ReID

SMALL = "mobilenet_v2"


def randomise(model: ReID, seed: int = 0) -> ReID:
    """`model` with the batch-norm statistics of noise and a random neck, as after training."""
    generator = torch.Generator().manual_seed(seed)
    neck: Any = model.neck
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.backbone.train()(torch.randn(4, 3, 64, 32, generator=generator))
        neck.running_mean.uniform_(-1, 1, generator=generator)
        neck.running_var.uniform_(0.5, 2, generator=generator)
        neck.weight.uniform_(0.5, 2, generator=generator)
    return model


def make_images(count: int = 3, height: int = 64, width: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", SMALL])
@pytest.mark.parametrize(("last_stride", "size"), [(1, (16, 8)), (2, (8, 4))])
def test_the_last_stride_decides_the_feature_maps_size(arch: str, last_stride: int, size: tuple[int, int]) -> None:
    model = ReID(arch, 5, last_stride=last_stride).eval()
    with torch.inference_mode():
        features = model.backbone(torch.zeros(1, 3, 256, 128))
    assert features.shape == (1, model.dim, *size)


@pytest.mark.parametrize("arch", ["resnet34", "resnet101"])
def test_the_other_backbones_have_last_stride_1_as_well(arch: str) -> None:
    with torch.device("meta"):
        model = ReID(arch, 5).eval()
        assert model.backbone(torch.zeros(1, 3, 256, 128)).shape == (1, model.dim, 16, 8)


def test_stride_1_is_the_default() -> None:
    with torch.device("meta"):
        assert ReID("resnet50", 5).eval().backbone(torch.zeros(1, 3, 384, 128)).shape[2:] == (24, 8)


@pytest.mark.parametrize(
    ("arch", "dim"),
    [
        ("resnet18", 512),
        ("resnet34", 512),
        ("resnet50", 2048),
        ("resnet101", 2048),
        ("resnet152", 2048),
        (SMALL, 1280),
    ],
)
@pytest.mark.parametrize("last_stride", [1, 2])
def test_keys_and_shapes_are_torchvisions(arch: str, dim: int, last_stride: int) -> None:
    with torch.device("meta"):
        model = ReID(arch, 5, last_stride=last_stride)
        theirs = getattr(models, arch)(weights=None).state_dict()
    expected = {f"backbone.{k}": v.shape for k, v in theirs.items() if not k.startswith(("fc.", "classifier."))}
    own = {key: value.shape for key, value in model.state_dict().items() if key.startswith("backbone.")}
    assert own == expected
    assert all(key.startswith("backbone.features.") for key in own) == (arch == SMALL)
    rest = {key for key in model.state_dict() if key not in own}
    counters = {"neck.num_batches_tracked", "neck.running_mean", "neck.running_var"}
    assert rest == {"neck.weight", "neck.bias", "classifier.weight", *counters}
    assert model.dim == dim
    assert model.classifier.weight.shape == (5, dim)


def test_every_backbone_of_the_table_is_tested_here() -> None:
    plain = {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152"}
    non_local = {f"resnet{depth}_{nl}{ibn}" for depth in (50, 101) for ibn in ("", "_ibn_a") for nl in ("nl", "nl1")}
    resnests = {f"resnest50{nl}" for nl in ("", "_nl", "_nl1")}
    ibn = {f"{arch}_ibn_a" for arch in plain}
    assert set(BACKBONES) == {*plain, *ibn, *non_local, *resnests, SMALL, f"{SMALL}_in"}


def test_a_resnest_is_that_of_timm() -> None:
    """With the last stride 2 it is timm's own; a last stride of 1 doubles the sides of the feature map."""
    import timm

    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 32)
    theirs = timm.create_model("resnest50d", num_classes=0, global_pool="").eval()
    ours = {stride: ReID("resnest50", 5, last_stride=stride).eval() for stride in (1, 2)}
    for model in ours.values():
        model.backbone.load_state_dict(theirs.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(ours[2].backbone(images), theirs(images))
        assert ours[1].backbone(images).shape == (2, 2048, 4, 2)
    assert ours[1].dim == 2048


@pytest.mark.parametrize(
    ("arch", "last_blocks", "inner"),
    [
        ("resnet50_nl", {2: [2, 3], 3: [3, 4, 5]}, {2: 256, 3: 512}),
        ("resnet101_nl1_ibn_a", {2: [2, 3], 3: range(14, 23)}, {2: 1, 3: 1}),
    ],
)
def test_non_local_blocks_follow_the_last_blocks_of_two_stages(arch: str, last_blocks: Any, inner: Any) -> None:
    with torch.device("meta"):
        ours, plain = ReID(arch, 5), ReID(re.sub("_nl1?", "", arch), 5)
    added = {key for key in ours.state_dict() if ".nl" in key}
    assert set(ours.state_dict()) - added == set(plain.state_dict())
    assert len(added) == 13 * sum(map(len, last_blocks.values()))
    for stage, blocks in last_blocks.items():
        layers = ours.backbone.get_submodule(f"layer{stage}")
        expected = [name for index, block in enumerate(blocks) for name in (str(block), f"nl{index}")]
        assert [name for name, _ in layers.named_children()][-len(expected) :] == expected
        assert ours.state_dict()[f"backbone.layer{stage}.nl0.g.weight"].shape[0] == inner[stage]


def test_a_non_local_block_against_a_naive_loop() -> None:
    torch.manual_seed(0)
    block = NonLocal(4, 3).eval()
    images = torch.randn(2, 4, 3, 2)
    with torch.no_grad():
        assert torch.equal(block(images), images)  # untrained, it adds nothing
        for tensor in (*block.parameters(), *block.W[1].buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2)
        actual = block(images).numpy()
        layers = {name: block.get_submodule(name) for name in ("g", "theta", "phi", "W.0", "W.1")}
    weights = {name: layer.weight.detach().numpy() for name, layer in layers.items()}  # type: ignore[operator]
    biases = {name: layer.bias.detach().numpy() for name, layer in layers.items()}  # type: ignore[operator]
    mean, var = (tensor.numpy() for tensor in (block.W[1].running_mean, block.W[1].running_var))  # type: ignore[union-attr,operator]
    for image, output in zip(images.numpy().reshape(2, 4, 6), actual.reshape(2, 4, 6), strict=True):
        g, theta, phi = (
            [weights[name][:, :, 0, 0] @ image[:, i] + biases[name] for i in range(6)] for name in ("g", "theta", "phi")
        )
        for i in range(6):
            y = sum((theta[i] @ phi[j]) * g[j] for j in range(6)) / 6
            added = (weights["W.0"][:, :, 0, 0] @ y + biases["W.0"] - mean) / np.sqrt(var + 1e-5)
            np.testing.assert_allclose(output[:, i], image[:, i] + added * weights["W.1"] + biases["W.1"], rtol=1e-5)


def test_gem_against_its_formula_and_its_limits() -> None:
    features = torch.tensor([[[[1.0, 2], [3, -4]], [[0, 0], [0, 0]]]])
    gem = GeM()
    with torch.no_grad():
        np.testing.assert_allclose(gem(features)[0].numpy(), [((1 + 8 + 27) / 4) ** (1 / 3), 1e-6], rtol=1e-4)
        gem.p.fill_(1)  # the average of what is above zero
        np.testing.assert_allclose(gem(features)[0].numpy(), [6 / 4, 1e-6], rtol=1e-4)
        gem.p.fill_(60)  # nearly the maximum
        np.testing.assert_allclose(gem(features)[0, 0].item(), 3 * 4 ** (-1 / 60), rtol=1e-4)


def test_pooling_and_reduction_of_both_networks() -> None:
    torch.manual_seed(0)
    model = randomise(ReID("resnet18", 4, pooling="gem", reduced_dim=16))
    model.neck.weight.data.mul_(2)  # type: ignore[union-attr,operator]
    model.pool.p.data.fill_(2.5)  # type: ignore[union-attr]
    assert (model.dim, model.classifier.weight.shape) == (16, (4, 16))
    contract = contract_of(model, 64, 32)
    graph, images = InferenceGraph(model, contract).eval(), make_images(2)
    with torch.inference_mode():
        pixels = images.permute(0, 3, 1, 2) / 255
        pixels = (pixels - torch.tensor(contract.mean).view(3, 1, 1)) / torch.tensor(contract.std).view(3, 1, 1)
        features = model.eval().backbone(pixels).double().clamp(min=1e-6)
        pooled = (features**2.5).mean((2, 3)) ** (1 / 2.5) @ model.reduction.weight.double().T  # type: ignore[union-attr,operator]
        neck: Any = model.neck
        wanted = (pooled - neck.running_mean) / (neck.running_var + 1e-5).sqrt() * neck.weight + neck.bias
        np.testing.assert_allclose(model(pixels).numpy(), wanted.numpy(), rtol=1e-3, atol=1e-4)
        unit = wanted / wanted.norm(dim=1, keepdim=True)
        assert float((graph(images).double() * unit).sum(1).min()) > 1 - 1e-6
    with pytest.raises(InputError, match="unknown pooling 'max'; choose from average, gem"):
        ReID("resnet18", 4, pooling="max")


def test_instance_norm_follows_the_stem_and_thirteen_bottlenecks() -> None:
    torch.manual_seed(1)
    plain, normed = ReID(SMALL, 5).eval(), ReID(f"{SMALL}_in", 5).eval()
    own = plain.state_dict()
    added = [key for key in normed.state_dict() if key not in own]
    assert len(added) == 2 * 14
    assert set(own) == set(normed.state_dict()) - set(added)
    normed.load_state_dict({**normed.state_dict(), **own})
    images = torch.randn(2, 3, 64, 32)
    features: Any = plain.backbone.features
    expected = images
    with torch.inference_mode():
        for index, layer in enumerate(features):
            expected = layer(expected)
            if index <= 13:  # Jia et al., BMVC 2019: each channel of each image gets mean 0 and variance 1
                values = expected.numpy()
                mean, var = values.mean((2, 3), keepdims=True), values.var((2, 3), keepdims=True)
                expected = torch.from_numpy((values - mean) / np.sqrt(var + 1e-5))
        actual = normed.backbone(images)
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_ibn_a_replaces_the_first_norm_of_every_block_but_the_last_stages(depth: int) -> None:
    with torch.device("meta"):
        plain, ibn = ReID(f"resnet{depth}", 5), ReID(f"resnet{depth}_ibn_a", 5)
        assert ibn.eval().backbone(torch.zeros(1, 3, 256, 128)).shape == (1, ibn.dim, 16, 8)
    expected = {}
    for key, value in plain.state_dict().items():
        stage, _, layer, *rest = (*key.removeprefix("backbone.").split("."), "", "")
        if stage in {"layer1", "layer2", "layer3"} and layer == "bn1":
            first, half = key.removesuffix(f"bn1.{rest[0]}"), (value.shape[0] // 2,) if value.ndim else ()
            expected[f"{first}bn1.BN.{rest[0]}"] = half
            if rest[0] in {"weight", "bias"}:
                expected[f"{first}bn1.IN.{rest[0]}"] = half
        else:
            expected[key] = tuple(value.shape)
    assert {key: tuple(value.shape) for key, value in ibn.state_dict().items()} == expected


def test_ibn_against_a_naive_loop() -> None:
    torch.manual_seed(0)
    ibn = IBN(6).double().eval()
    with torch.no_grad():
        for tensor in (*ibn.parameters(), ibn.BN.running_mean, ibn.BN.running_var):
            tensor.uniform_(0.5, 2)  # type: ignore[union-attr]
    images = torch.randn(2, 6, 4, 3, dtype=torch.float64) * 3 + 1
    actual = ibn(images).detach().numpy()
    norm_in, norm_bn = ({key: value.tolist() for key, value in part.state_dict().items()} for part in (ibn.IN, ibn.BN))
    for n in range(2):
        for channel in range(6):
            values = [float(images[n, channel, y, x]) for y in range(4) for x in range(3)]
            if channel < 3:  # instance-norm: the statistics of the image
                state, c = norm_in, channel
                mean = sum(values) / 12
                var = sum((value - mean) ** 2 for value in values) / 12
            else:
                state, c = norm_bn, channel - 3
                mean, var = norm_bn["running_mean"][c], norm_bn["running_var"][c]
            expected = [(v - mean) / (var + 1e-5) ** 0.5 * state["weight"][c] + state["bias"][c] for v in values]
            np.testing.assert_allclose(actual[n, channel].ravel(), expected, atol=1e-9)


def test_ibn_trains_with_the_statistics_of_the_batch() -> None:
    model = ReID("resnet18_ibn_a", 5).train()
    f_t, _, logits = model(torch.randn(2, 3, 64, 32))
    assert (f_t.shape, logits.shape) == ((2, 512), (2, 5))
    assert float(model.state_dict()["backbone.layer1.0.bn1.BN.running_mean"].abs().max()) > 0


def test_each_stem_is_its_definition() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 32)
    models_ = {stem: ReID("resnet18", 5, stem=stem).eval() for stem in STEMS}
    weights = models_["torchvision"].state_dict()
    for stem, model in models_.items():
        assert list(model.state_dict()) == list(weights)
        model.load_state_dict(weights)
        with torch.inference_mode():
            before: Any = model.backbone[:2](images)  # type: ignore[index]
            actual = model.backbone[:4](images).numpy()  # type: ignore[index]
        if stem != "no-relu":
            before = before.clamp(min=0)
        start = 0 if stem == "unpadded-pool" else -1
        assert actual.shape == (2, 64, 16, 8)
        for n, c, y, x in [(0, 0, 0, 0), (1, 5, 15, 7), (0, 63, 7, 3), (1, 20, 0, 7), (0, 40, 15, 0)]:
            rows, columns = (range(2 * at + start, 2 * at + start + 3) for at in (y, x))
            inside = [(i, j) for i in rows for j in columns if 0 <= i < 32 and 0 <= j < 16]
            assert actual[n, c, y, x] == pytest.approx(max(float(before[n, c, i, j]) for i, j in inside))


@pytest.mark.parametrize(
    ("arch", "stem", "choices"),
    [("resnet18", "stemless", "torchvision, no-relu, unpadded-pool"), (SMALL, "no-relu", "torchvision")],
)
def test_an_unknown_stem_lists_the_choices(arch: str, stem: str, choices: str) -> None:
    with pytest.raises(InputError, match=rf"{arch} has no stem '{stem}'; choose from {choices}$"):
        ReID(arch, 5, stem=stem)


def test_bnneck_has_a_frozen_shift_of_zero_and_a_classifier_without_bias() -> None:
    torch.manual_seed(0)
    model = ReID(SMALL, 700)
    neck: Any = model.neck
    classifier: Any = model.classifier
    assert isinstance(neck, nn.BatchNorm1d)
    assert not neck.bias.requires_grad
    assert not neck.bias.any()
    assert neck.weight.requires_grad
    assert (neck.weight == 1).all()
    assert classifier.bias is None
    assert float(classifier.weight.detach().std()) == pytest.approx(0.001, rel=0.01)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["neck.bias"]


def test_without_a_neck_both_losses_use_one_feature() -> None:
    model = ReID(SMALL, 5, neck="none")
    assert isinstance(model.neck, nn.Identity)
    assert model.classifier.bias is not None
    f_t, _, logits = model.train()(torch.randn(2, 3, 64, 32))
    torch.testing.assert_close(logits, f_t @ model.classifier.weight.T + model.classifier.bias)


def test_training_returns_f_t_and_the_logits_of_f_i() -> None:
    model = ReID(SMALL, 5).train()
    neck: Any = model.neck
    with torch.no_grad():
        neck.weight.uniform_(0.5, 2)
    f_t, _, logits = model(torch.randn(4, 3, 64, 32))
    assert f_t.shape == (4, 1280)
    assert logits.shape == (4, 5)
    features = f_t.detach().double().numpy()
    scaled = (features - features.mean(0)) / np.sqrt(features.var(0) + 1e-5) * neck.weight.detach().numpy()
    expected = scaled @ model.classifier.weight.detach().double().numpy().T
    np.testing.assert_allclose(logits.detach().numpy(), expected, atol=1e-5)


def test_f_t_is_the_mean_over_the_feature_map() -> None:
    model = ReID("resnet18", 5, feature="ft").eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        features = model.backbone(images).numpy()
        f_t = model(images).numpy()
    for n, c in [(0, 0), (0, 100), (1, 7), (1, 511)]:
        values = [features[n, c, y, x] for y in range(4) for x in range(2)]
        assert f_t[n, c] == pytest.approx(sum(values) / 8, rel=1e-5)


def test_f_i_is_the_batch_norm_of_f_t() -> None:
    model = randomise(ReID(SMALL, 5)).eval()
    neck: Any = model.neck
    images = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        f_i = model(images).double().numpy()
        model.feature = "ft"
        f_t = model(images).double().numpy()
    mean, var, weight = (t.detach().double().numpy() for t in (neck.running_mean, neck.running_var, neck.weight))
    np.testing.assert_allclose(f_i, (f_t - mean) / np.sqrt(var + 1e-5) * weight, atol=1e-5)
    assert not np.allclose(f_i, f_t, atol=0.1)


def test_in_training_both_features_are_the_same_network() -> None:
    # `feature` chooses the embedding, not what is trained.
    model = ReID(SMALL, 5, feature="ft").train()
    f_t, _, logits = model(torch.randn(2, 3, 64, 32))
    assert (f_t.shape, logits.shape) == ((2, 1280), (2, 5))


@pytest.mark.parametrize(
    ("arch", "neck", "words"), [("resnet51", "bnneck", "resnet50"), (SMALL, "neckless", "bnneck, l2norm, none")]
)
def test_unknown_names_list_the_choices(arch: str, neck: str, words: str) -> None:
    with pytest.raises(InputError, match=rf"unknown .*choose from .*{words}"):
        ReID(arch, 5, neck=neck)


@pytest.mark.parametrize("arch", ["resnet18", SMALL])
def test_the_gradient_of_the_pooling_is_in_channels_last_memory(arch: str) -> None:
    model = ReID(arch, 5).train().to(memory_format=torch.channels_last)
    orders: list[bool] = []

    def record(_module: nn.Module, _inputs: Any, grads: Any) -> None:
        orders.append(grads[0].is_contiguous(memory_format=torch.channels_last))

    model.backbone.register_full_backward_hook(record)
    images = torch.randn(2, 3, 64, 32, requires_grad=True)
    model(images.to(memory_format=torch.channels_last))[0].sum().backward()
    assert orders == [True]


@pytest.mark.parametrize("training", [True, False])
def test_mobilenet_at_its_own_stride_is_torchvisions(training: bool) -> None:
    torch.manual_seed(0)
    theirs = models.mobilenet_v2(weights=None).double()
    model = ReID(SMALL, 5, last_stride=2).double()
    model.backbone.load_state_dict(
        {key: value for key, value in theirs.state_dict().items() if not key.startswith("classifier.")}
    )
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected = theirs.features.train(training)(images)
    torch.testing.assert_close(model.backbone.train(training)(images), expected, atol=1e-9, rtol=1e-6)


def test_resnet_at_its_own_stride_is_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = models.resnet18(weights=None).eval()
    model = ReID("resnet18", 5, last_stride=2, feature="ft").eval()
    model.backbone.load_state_dict(
        {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    )
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), theirs(images))


@pytest.mark.parametrize("arch", ["resnet18", SMALL])
@pytest.mark.parametrize("feature", ["fi", "ft"])
def test_the_inference_graph_is_the_formula(arch: str, feature: str) -> None:
    model = randomise(ReID(arch, 5, feature=feature)).eval()
    neck: Any = model.neck
    contract = contract_of(model, 64, 32)
    images = make_images()
    pixels = images.double().numpy() / 255
    pixels = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.inference_mode():
        actual = InferenceGraph(model, contract).eval()(images)
        features = model.backbone(torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float()).double().numpy()
    expected = features.mean((2, 3))
    if feature == "fi":
        mean, var, weight = (t.detach().double().numpy() for t in (neck.running_mean, neck.running_var, neck.weight))
        expected = (expected - mean) / np.sqrt(var + 1e-5) * weight
    expected /= np.sqrt((expected**2).sum(1, keepdims=True))
    assert actual.dtype == torch.float32
    assert actual.shape == (3, model.dim)
    np.testing.assert_allclose(actual.numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(actual.numpy(), axis=1), 1, atol=1e-6)


def test_the_inference_graph_uses_mean_and_std_of_its_contract() -> None:
    model = randomise(ReID(SMALL, 5)).eval()
    contract = contract_of(model, 64, 32)
    other = dataclasses.replace(contract, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    images = make_images()
    pixels = (images.float() / 255 - torch.tensor(other.mean)) / torch.tensor(other.std)
    with torch.inference_mode():
        expected = nn.functional.normalize(model(pixels.permute(0, 3, 1, 2)))
        torch.testing.assert_close(InferenceGraph(model, other).eval()(images), expected, atol=2e-6, rtol=1e-4)
        assert not torch.allclose(InferenceGraph(model, contract).eval()(images), expected, atol=1e-3)


def test_a_zero_feature_gives_no_nan() -> None:
    model = ReID(SMALL, 5, feature="ft").eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    with torch.inference_mode():
        embeddings = InferenceGraph(model, contract_of(model, 64, 32)).eval()(make_images())
    assert not embeddings.any()


def fingerprint(model: ReID) -> str:
    return contract_of(model, 64, 32).fingerprint


def test_the_contract_describes_the_model() -> None:
    model = ReID(SMALL, 5, feature="ft")
    contract = contract_of(model, 64, 32)
    expected = Contract(arch=SMALL, height=64, width=32, dim=1280, feature="ft", fingerprint=contract.fingerprint)
    assert contract == expected
    assert len(contract.fingerprint) == 16


@pytest.mark.parametrize(
    "key", ["backbone.features.0.0.weight", "backbone.features.18.1.running_var", "neck.running_mean", "neck.weight"]
)
def test_the_fingerprint_changes_with_every_weight_that_inference_uses(key: str) -> None:
    model = ReID(SMALL, 5)
    before = fingerprint(model)
    assert fingerprint(model) == before
    model.state_dict()[key].view(-1)[-1] += 1e-3
    assert fingerprint(model) != before


def test_the_fingerprint_is_a_hash_of_the_weights() -> None:
    # Galleries store fingerprints, so their definition must not change for models of `bot train`.
    model = ReID(SMALL, 5)
    digest = hashlib.sha256()
    for key in sorted(model.state_dict()):
        if not key.startswith("classifier."):
            digest.update(key.encode() + hashlib.sha256(model.state_dict()[key].numpy().tobytes()).digest())
    assert fingerprint(model) == digest.hexdigest()[:16]


def test_the_fingerprint_does_not_change_with_the_classifier_or_the_memory_format() -> None:
    model = ReID(SMALL, 5)
    before = fingerprint(model)
    with torch.no_grad():
        model.classifier.weight.add_(1)
    assert fingerprint(model) == before
    model.classifier = nn.Linear(1280, 9)
    assert fingerprint(model) == before
    model.to(memory_format=torch.channels_last)
    assert fingerprint(model) == before


def test_the_neck_l2norm() -> None:
    torch.manual_seed(0)
    model = ReID(SMALL, 5, neck="l2norm").eval()
    with torch.no_grad():
        f_i: Any = model(torch.randn(3, 3, 64, 32))
    assert torch.allclose(f_i.norm(dim=1), torch.full((3,), L2_LENGTH), rtol=1e-5)
    assert model.classifier.bias is None
    assert not list(model.neck.parameters())
    contract = contract_of(model, 64, 32)
    images = torch.randint(0, 256, (3, 64, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        unit, raw = (InferenceGraph(model, contract, unit_length=unit).eval()(images) for unit in (True, False))
    assert torch.allclose(raw, L2_LENGTH * unit, atol=1e-4)
