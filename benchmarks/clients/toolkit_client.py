"""Runs in an environment with a ReID toolkit: random weights of its networks, and what it embeds with them.

    PYTHON toolkit_client.py OUT NETWORK ...

NETWORK is a name in NETWORKS. Each gets a folder OUT/NETWORK with `weights.pth`, as the toolkit saves it, and
`answer.npz`: `crops` uint8 [N, H, W, 3] in RGB, the `vectors` [N, D] that the toolkit's own code embeds them to, of
unit length, and its `version`. This file imports nothing of bot_deploy; boxmot is AGPL-3.0, and no toolkit is a part
of it.
"""

import collections.abc
import contextlib
import importlib.metadata
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import nn

Answer = tuple[np.ndarray, object]  # crops, and their vectors
IDENTITIES = 5
CROPS = 6
SIZE, TALL = (256, 128), (384, 128)


def random_crops(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Coarse colours with noise: pictures that even a random network tells apart."""
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(CROPS):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 4, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC), np.float64)
        crops.append(np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8))
    return np.stack(crops)


def randomise(network: nn.Module, size: tuple[int, int] = SIZE, *, of_bytes: bool = False) -> None:
    """Gives the norms and powers of `network` random weights; convolutions keep the random start of the toolkit.

    Batch norms get the statistics of other random crops: with those of a new network, or with random ones, features
    vanish or grow without bound, so that all crops get the same embedding. One of these crops is noise alone: a
    non-local block cubes its input, and would make infinite numbers of what it has not met. `of_bytes`: the network
    normalises the crops itself.
    """
    noise = np.random.default_rng(2).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    images = torch.from_numpy(np.concatenate([random_crops(size, seed=1), noise])).permute(0, 3, 1, 2).float()
    images = images if of_bytes else (images / 255 - 0.5) / 0.25
    batch_norms = [module for module in network.modules() if getattr(module, "running_var", None) is not None]
    for module in network.modules():
        if module in batch_norms or isinstance(module, nn.LayerNorm | nn.InstanceNorm2d):
            if module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        elif isinstance(getattr(module, "p", None), nn.Parameter):
            module.p.uniform_(2, 4)
    network.eval()
    for module in batch_norms:
        module.momentum = 1.0
        module.train()
    network(images)
    network.eval()


def unit(vectors: object) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32).reshape(len(vectors), -1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def run_torchreid(out: Path, name: str) -> Answer:
    """The network `name` of torchreid, read and run by its FeatureExtractor."""
    from torchreid.reid.models import build_model
    from torchreid.reid.utils import FeatureExtractor

    network = build_model(name, IDENTITIES, pretrained=False, use_gpu=False)
    randomise(network)
    torch.save({"state_dict": network.state_dict(), "epoch": 1}, out / "weights.pth")
    extractor = FeatureExtractor(name, str(out / "weights.pth"), device="cpu", verbose=False)
    crops = random_crops(SIZE)
    return crops, extractor(list(crops)).numpy()


def run_fastreid(
    out: Path, options: list[object], size: tuple[int, int] = SIZE, renamed: tuple[tuple[str, str], ...] = ()
) -> Answer:
    """A network of fast-reid with the configuration `options`, behind its own transforms."""
    # It asks for PyTorch 1.13 and Python 3.9. Of what they have dropped since, it needs the names of three types.
    collections.Mapping = collections.abc.Mapping
    sys.modules.setdefault("torch._six", SimpleNamespace(string_classes=str, int_classes=int))
    from fastreid.config import get_cfg
    from fastreid.data.transforms import build_transforms
    from fastreid.modeling import build_model

    config = get_cfg()
    necked = ["MODEL.HEADS.WITH_BNNECK", True, "MODEL.HEADS.NUM_CLASSES", IDENTITIES, "MODEL.DEVICE", "cpu"]
    config.merge_from_list([*necked, "INPUT.SIZE_TRAIN", list(size), "INPUT.SIZE_TEST", list(size), *options])
    network = build_model(config).eval()
    randomise(network, size, of_bytes=True)
    state = network.state_dict()
    for old, new in renamed:
        state = {key.replace(old, new, 1) if key.startswith(old) else key: value for key, value in state.items()}
    torch.save({"model": state}, out / "weights.pth")
    transform, crops = build_transforms(config, is_train=False), random_crops(size)
    return crops, network(torch.stack([transform(Image.fromarray(crop)) for crop in crops])).numpy()


def run_boxmot(out: Path, name: str) -> Answer:
    """The network `name` of BoxMOT, read and run by its ReID class; the name of the file says which it is."""
    from boxmot.reid.core.registry import ReIDModelRegistry
    from boxmot.reid.core.runtime import ReID

    file = out / f"{name}_market1501.pt"
    network = ReIDModelRegistry.build_model(name, file, num_classes=751, pretrained=False, use_gpu=False)
    randomise(network)
    torch.save(network.state_dict(), file)
    crops = random_crops(SIZE)
    vectors = ReID(str(file), device="cpu")([np.ascontiguousarray(crop[..., ::-1]) for crop in crops])
    file.rename(out / "weights.pth")
    return crops, vectors


def run_clip_reid(out: Path, feature: str, stride: int = 16, cameras: int = 0) -> Answer:
    """CLIP-ReID of BoxMOT until 16, without the download of CLIP's weights, which are replaced by random ones.

    With one of `cameras` its embedding has the weight 1 as in its authors' configurations of people.
    """
    from boxmot.reid.backbones.clip import make_model as module
    from boxmot.reid.backbones.clip.clip.model import CLIP
    from boxmot.reid.backbones.clip.config.defaults import _C

    def random_clip(_name: str, rows: int, columns: int, _stride: int) -> nn.Module:
        # Numbers of ViT-B/16; its text encoder is not saved, so it is small.
        return CLIP(512, 224, 12, 768, 16, stride, 77, 100, 64, 1, 1, rows, columns)

    module.load_clip_to_cpu = random_clip
    config = _C.clone()
    config.merge_from_list(["MODEL.STRIDE_SIZE", [stride, stride], "TEST.NECK_FEAT", feature, "MODEL.SIE_COE", 1.0])
    network = module.make_model(config, IDENTITIES, cameras, 0).float().eval()
    randomise(network)
    if cameras:
        network.cv_embed = nn.Parameter(torch.randn(cameras, 768))
    torch.save(network.state_dict(), out / "weights.pth")
    crops = random_crops(SIZE)
    images = (torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    return crops, network(images, cam_label=torch.zeros(CROPS, dtype=torch.long) if cameras else None).numpy()


RESNET50 = ["MODEL.BACKBONE.DEPTH", "50x"]
NON_LOCAL = ["MODEL.BACKBONE.WITH_NL", True]
IBN = ["MODEL.BACKBONE.WITH_IBN", True]
TRAINED_POWER = ["MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPoolingP"]
MGN = ["MODEL.META_ARCHITECTURE", "MGN", "MODEL.HEADS.EMBEDDING_DIM", 256, *TRAINED_POWER]
TRANSFORMER = [
    *("MODEL.BACKBONE.NAME", "build_vit_backbone", "MODEL.BACKBONE.DEPTH", "base", "MODEL.BACKBONE.FEAT_DIM", 768),
    *("MODEL.HEADS.POOL_LAYER", "Identity", "MODEL.PIXEL_MEAN", [127.5] * 3, "MODEL.PIXEL_STD", [127.5] * 3),
]
AS_TRANSREID = (("backbone.", "base."), ("heads.bottleneck.0.", "bottleneck."), ("heads.weight", "classifier.weight"))
TORCHREID = [
    *("osnet_x1_0", "osnet_x0_25", "osnet_ibn_x1_0", "osnet_ain_x1_0", "osnet_ain_x0_25"),
    *("resnet18", "resnet34", "resnet50", "resnet152", "resnet50_ibn_a"),
]
NETWORKS = {
    **{f"torchreid {name}": (run_torchreid, (name,)) for name in TORCHREID},
    "fastreid BoT R18": (run_fastreid, (["MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", 512],)),
    "fastreid BoT R34 IBN": (run_fastreid, (["MODEL.BACKBONE.DEPTH", "34x", "MODEL.BACKBONE.FEAT_DIM", 512, *IBN],)),
    "fastreid BoT R50": (run_fastreid, (RESNET50,)),
    "fastreid BoT R50, 512 numbers": (run_fastreid, ([*RESNET50, "MODEL.HEADS.EMBEDDING_DIM", 512],)),
    "fastreid BoT R101 IBN": (run_fastreid, (["MODEL.BACKBONE.DEPTH", "101x", *IBN],)),
    "fastreid BoT MobileNetV2": (
        run_fastreid,
        (
            [
                *("MODEL.BACKBONE.NAME", "build_mobilenetv2_backbone", "MODEL.BACKBONE.DEPTH", "1.0x"),
                *("MODEL.BACKBONE.FEAT_DIM", 1280),
            ],
        ),
    ),
    "fastreid AGW R50": (run_fastreid, ([*RESNET50, *NON_LOCAL, "MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPooling"],)),
    "fastreid SBS R50": (run_fastreid, ([*RESNET50, *NON_LOCAL, *TRAINED_POWER], TALL)),
    "fastreid SBS R101 IBN": (
        run_fastreid,
        (["MODEL.BACKBONE.DEPTH", "101x", *IBN, *NON_LOCAL, *TRAINED_POWER], TALL),
    ),
    "fastreid SBS S50": (
        run_fastreid,
        ([*RESNET50, "MODEL.BACKBONE.NAME", "build_resnest_backbone", *TRAINED_POWER], TALL),
    ),
    "fastreid MGN R50": (run_fastreid, ([*RESNET50, *MGN], TALL)),
    "fastreid MGN R50 IBN": (run_fastreid, ([*RESNET50, *IBN, *MGN], TALL)),
    "fastreid ViT as TransReID, after": (run_fastreid, (TRANSFORMER, SIZE, AS_TRANSREID)),
    "fastreid ViT as TransReID, stride 12, after": (
        run_fastreid,
        ([*TRANSFORMER, "MODEL.BACKBONE.STRIDE_SIZE", (12, 12)], SIZE, AS_TRANSREID),
    ),
    **{f"boxmot {name}": (run_boxmot, (name,)) for name in ("osnet_x0_25", "osnet_ain_x1_0", "resnet50")},
    "boxmot16 CLIP-ReID": (run_clip_reid, ("before",)),
    "boxmot16 CLIP-ReID, after": (run_clip_reid, ("after",)),
    "boxmot16 CLIP-ReID, stride 12, camera": (run_clip_reid, ("before", 12, 1)),
}


def main(out: str, *networks: str) -> None:
    torch.set_grad_enabled(False)
    for network in networks:
        torch.manual_seed(0)
        run, settings = NETWORKS[network]
        folder = Path(out) / network
        folder.mkdir()
        with contextlib.redirect_stdout(sys.stderr):
            crops, vectors = run(folder, *settings)
        version = importlib.metadata.version(network.split()[0].rstrip("0123456789"))
        np.savez(folder / "answer.npz", crops=crops, vectors=unit(vectors), version=version)


if __name__ == "__main__":
    main(*sys.argv[1:])
