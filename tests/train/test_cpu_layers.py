"""The layers for training on a CPU compute the same functions as PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bot_deploy.model import ReID
from bot_deploy.train.cpu_layers import LeanReLU6, StridedDepthwise, use_cpu_layers
from bot_deploy.train.recipe import Recipe
from bot_deploy.train.state import create_state


def depthwise(channels: int, dtype: torch.dtype) -> tuple[nn.Conv2d, StridedDepthwise]:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False, dtype=dtype)
    return conv, StridedDepthwise(conv)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 1), (2, 3)])
def test_the_faster_depthwise_convolution_is_the_same_function(
    size: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    conv, faster = depthwise(5, dtype)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 5, *size, dtype=dtype, generator=generator).to(memory_format=torch.channels_last)
    results = []
    for layer in (lambda x: nn.functional.conv2d(x, conv.weight, stride=2, padding=1, groups=5), faster.train()):
        conv.zero_grad()
        given = images.clone().requires_grad_()
        output = layer(given)
        # A loss whose gradient differs at every output.
        (output * torch.arange(1, output.numel() + 1, dtype=dtype).view(output.shape)).sum().backward()
        assert given.grad is not None
        assert conv.weight.grad is not None
        results.append((output.detach(), given.grad, conv.weight.grad.clone()))
    for expected, actual in zip(*results, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(actual, expected, atol=tolerance * max(scale, 1), rtol=tolerance)


def test_the_faster_depthwise_convolution_shares_weight_and_key() -> None:
    conv, faster = depthwise(4, torch.float32)
    assert faster.weight is conv.weight
    assert list(faster.state_dict()) == list(conv.state_dict()) == ["weight"]


def test_in_evaluation_it_is_the_plain_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    _, faster = depthwise(4, torch.float32)
    strides: list[Any] = []
    plain = nn.functional.conv2d

    def spy(images: Any, weight: Any, bias: Any = None, stride: Any = 1, *rest: Any, **named: Any) -> torch.Tensor:
        strides.append(named.get("stride", stride))
        result: torch.Tensor = plain(images, weight, bias, stride, *rest, **named)
        return result

    monkeypatch.setattr(nn.functional, "conv2d", spy)
    images = torch.randn(2, 4, 9, 6)
    evaluated = faster.eval()(images)
    trained = faster.train()(images)
    assert strides == [(2, 2), 1]
    expected = plain(images, faster.weight, stride=2, padding=1, groups=4)
    assert torch.equal(evaluated, expected)
    torch.testing.assert_close(trained, expected)


def layer_types(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


@pytest.mark.parametrize(("last_stride", "count"), [(1, 3), (2, 4)])
def test_every_block_that_halves_the_map_gets_the_faster_convolution(last_stride: int, count: int) -> None:
    with torch.device("meta"):
        model = ReID("mobilenet_v2", 5, last_stride=last_stride)
    keys = list(model.state_dict())
    parameters = dict(model.named_parameters())
    use_cpu_layers(model)
    assert layer_types(model).count(StridedDepthwise) == count
    assert list(model.state_dict()) == keys
    assert list(dict(model.named_parameters())) == list(parameters)
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())


def test_all_relu6_of_mobilenet_are_replaced() -> None:
    with torch.device("meta"):
        model = ReID("mobilenet_v2", 5)
    before = layer_types(model)
    use_cpu_layers(model)
    assert layer_types(model).count(LeanReLU6) == before.count(nn.ReLU6) > 30
    assert nn.ReLU6 not in layer_types(model)


def test_a_resnet_keeps_its_layers() -> None:
    with torch.device("meta"):
        model = ReID("resnet50", 5)
    before = layer_types(model)
    use_cpu_layers(model)
    assert layer_types(model) == before


def test_only_the_trainer_uses_them() -> None:
    recipe = Recipe(arch="mobilenet_v2", weights="none", height=32, width=16)
    trained = create_state(recipe, 5, "cpu").model
    assert {StridedDepthwise, LeanReLU6} <= set(layer_types(trained))
    model = ReID("mobilenet_v2", 5)
    assert not {StridedDepthwise, LeanReLU6} & set(layer_types(model))
    assert list(model.state_dict()) == list(trained.state_dict())


def test_the_leaner_relu6_is_the_same_function() -> None:
    edges = torch.tensor([-torch.inf, -1, -0.0, 0, 1e-6, 3, 6 - 1e-6, 6, 6 + 1e-6, torch.inf, torch.nan])
    results = []
    for layer in (nn.ReLU6(inplace=True), LeanReLU6(inplace=True)):
        given = edges.clone().requires_grad_()
        output = layer(given * 1)
        (output * torch.arange(1, len(edges) + 1)).sum().backward()
        results.append((output.detach(), given.grad))
    torch.testing.assert_close(results[1], results[0], atol=0, rtol=0, equal_nan=True)


# PyTorch 2.11 instantiates the Function while it traces, which PyTorch itself warns of.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_torch_compile_takes_the_layers_whole() -> None:
    """No break in the graph (fullgraph), and the same outputs and gradients."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, bias=False)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), StridedDepthwise(conv), LeanReLU6(inplace=True)).train()
    images = torch.randn(2, 3, 9, 6)
    results = []
    for run in (network, torch.compile(network, backend="aot_eager", fullgraph=True)):
        network.zero_grad()
        output = run(images)
        (output * torch.arange(output.numel()).view(output.shape)).sum().backward()
        results.append([output.detach(), *(parameter.grad.clone() for parameter in network.parameters())])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, atol=1e-3, rtol=1e-5)


def test_a_gpu_gets_the_layers_of_pytorch() -> None:
    with pytest.MonkeyPatch.context() as patch:
        fused = []
        for name in ("Adam", "SGD"):  # of PyTorch's devices without content, none has fused optimizers
            make = getattr(torch.optim, name)
            patch.setattr(torch.optim, name, lambda *a, _make=make, **b: fused.append(b.pop("fused")) or _make(*a, **b))
        recipe = Recipe(arch="mobilenet_v2", weights="none", height=32, width=16)
        trained = create_state(recipe, 5, "meta").model
    assert not {StridedDepthwise, LeanReLU6} & set(layer_types(trained))
    assert fused == [True, True]  # the others would make the CPU wait for the check of fp16


def test_the_leaner_relu6_keeps_no_copy_of_its_input() -> None:
    before = torch.randn(8, requires_grad=True) * 1
    memory, kept = before.data_ptr(), []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        after = LeanReLU6(inplace=True)(before)
    assert after.data_ptr() == memory
    assert kept == [memory]
