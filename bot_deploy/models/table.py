"""The networks that can be fetched by name: where their files are, what they take and give, and their terms.

To add a network, add one entry here. Sizes, checksums and accuracies are those that its authors publish.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from bot_deploy.choices import IMAGE_HEIGHT, IMAGE_WIDTH, MEAN, STD

MARKET, VIPER = "Market-1501", "VIPeR"  # names of data sets in accuracies


@dataclass(frozen=True)
class RemoteFile:
    """A file at an address of the web."""

    address: str
    bytes: int  # exact, unless a comment beside it says "about"
    checksum: str  # "algorithm:hexadecimal digits", as pooch takes it

    @property
    def name(self) -> str:
        """The name of the file, which it also has in the cache."""
        return urlsplit(self.address).path.rpartition("/")[2]


@dataclass(frozen=True)
class NetworkInput:
    """The images that a network takes: (pixel / r - mean) / std, where r is 1 for "0-255" and 255 for "0-1"."""

    height: int  # pixels
    width: int  # pixels
    color: str  # "RGB" or "BGR"
    pixel_range: str  # "0-255" or "0-1"
    mean: tuple[float, ...] = (0.0,)  # for each channel, or one number for all
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Accuracy:
    """Rank-1 and mAP on a data set, in percent."""

    data: str
    rank1: float
    mAP: float  # noqa: N815 - the field's name of it


@dataclass(frozen=True, kw_only=True)
class NamedNetwork:
    """A network that can be fetched by name."""

    name: str
    files: tuple[RemoteFile, ...]  # the first is the one to open; the others belong beside it
    authors: str
    licence: str  # of the network, an SPDX name
    data_terms: str  # what the training data allowed
    input: NetworkInput

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def terms(self) -> str:
        """Licence and terms of the training data, on one line."""
        return f"{self.licence}, {self.authors}; training data: {self.data_terms}"


@dataclass(frozen=True, kw_only=True)
class NamedModel(NamedNetwork):
    """A ReID network."""

    dim: int  # dimensions of an embedding
    output: str | None = None  # name of the output with the embeddings; None: the only one
    published: Accuracy | None = None  # by its authors; no re-ranking
    measured: tuple[Accuracy, ...] = ()  # by us, see benchmarks/README.md


@dataclass(frozen=True, kw_only=True)
class NamedDetector(NamedNetwork):
    """A detector of people."""


def _intel(
    number: str,
    folder: str,
    *,
    xml: tuple[int, str],
    weights: tuple[int, str],
    published: Accuracy | None,
    measured: tuple[Accuracy, ...] = (),
) -> NamedModel:
    """A network of Intel's Open Model Zoo, an OpenVINO IR in FP16; `xml` and `weights` are (bytes, checksum)."""
    title = f"person-reidentification-retail-{number}"
    address = f"{folder}/{title}/FP16/{title}"
    return NamedModel(
        name=f"retail-{number}",
        files=(RemoteFile(f"{address}.xml", *xml), RemoteFile(f"{address}.bin", *weights)),
        authors="Intel",
        licence="Apache-2.0",
        data_terms="not published",
        input=NetworkInput(IMAGE_HEIGHT, IMAGE_WIDTH, "BGR", "0-255"),
        dim=256,
        published=published,
        measured=measured,
    )


def _yolox(name: str, side: int, size: int, sha256: str) -> NamedDetector:
    return NamedDetector(
        name=name.replace("_", "-"),
        files=(
            RemoteFile(
                f"https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/{name}.onnx",
                size,
                f"sha256:{sha256}",
            ),
        ),
        authors="Megvii",
        licence="Apache-2.0",
        data_terms="COCO; its annotations CC-BY-4.0, its images under their owners' terms",
        input=NetworkInput(side, side, "BGR", "0-255"),
    )


def _osnet(width: str, size: int, sha256: str) -> NamedModel:
    """OSNet-AIN, a state dict of torchreid; `size` is about that of the file."""
    return NamedModel(
        name=f"osnet-ain-x{width}",
        files=(
            RemoteFile(
                "https://huggingface.co/LibreYOLO/LibreReID-osnet/resolve/main/"
                f"osnet_ain_x{width.replace('.', '_')}.pt",
                size,  # about
                f"sha256:{sha256}",
            ),
        ),
        authors="Zhou et al. (torchreid)",
        licence="MIT",
        data_terms="MSMT17, DukeMTMC-reID and CUHK03, which are for research",
        input=NetworkInput(IMAGE_HEIGHT, IMAGE_WIDTH, "RGB", "0-1", MEAN, STD),
        dim=512,
    )


_OPEN_MODEL_ZOO = "https://storage.openvinotoolkit.org/repositories/open_model_zoo/2023.0/models_bin/1"
# Not in the list of models that this table was made from: the address of Open Model Zoo's release of that year, and the
# checksums of the files that were measured.
_OPEN_MODEL_ZOO_2020 = "https://download.01.org/opencv/2020/openvinotoolkit/2020.4/open_model_zoo/models_bin/3"

NAMED_MODELS: tuple[NamedModel, ...] = (
    _intel(
        "0277",
        _OPEN_MODEL_ZOO,
        xml=(
            616_140,
            "sha384:554b403108fea776cb54c971c4c8acfaaeaae3884b5945eefbcbad8b9ed3c84f0382cb72c666c02c07129826a668d79e",
        ),
        weights=(
            4_178_806,
            "sha384:0466aa71c44a14aa902a609c6500f4bc087cabbfa09c1e5bfb309f0a7e89fcdd9971e0359663e31803e3611bfa4d2353",
        ),
        published=Accuracy(MARKET, 96.2, 87.7),
    ),
    # An older release of the same network, in other files.
    _intel(
        "0265",
        _OPEN_MODEL_ZOO_2020,
        xml=(434_454, "sha256:bc0b9e59b2985f04d4f30ecbc0e6f721f6471ccb2567bcafd3c16b535d5f4eaa"),
        weights=(4_178_912, "sha256:9cae831102140a9f96e4fff03ac7febb364819677a429c177ad5619eaefa3e31"),
        published=None,
        measured=(
            Accuracy(MARKET, 95.96, 87.72),  # on openvino-bf16; 96.02 / 87.75 in float32
            Accuracy(VIPER, 68.99, 76.80),
        ),
    ),
    _intel(
        "0286",
        _OPEN_MODEL_ZOO,
        xml=(
            616_000,  # about
            "sha384:8bee621289b7b8f29ffdaf1eb86af4f0b9bd3077d134676f2f53c5fd86f9103405a2ce5c605f548ae9261dead48849e2",
        ),
        weights=(
            2_453_724,
            "sha384:5c53f14f0bf4c9f7cc779a0e3dd424e6226b45954706aecde9056858e1469538091d16a1763f968955f86aabf1c4f42a",
        ),
        published=Accuracy(MARKET, 94.8, 83.7),
    ),
    _intel(
        "0287",
        _OPEN_MODEL_ZOO,
        xml=(
            616_000,  # about
            "sha384:922cc5560fa298a9f02cac5bad5cbeeaee2a913ec435ae6f446d0c783936598b333c017ce1a702b605c2fd7fa33a6ee7",
        ),
        weights=(
            1_181_124,
            "sha384:ad86ea0b8661e43b01482fef63b2fe423ec9df8e55f6283f28c01094223f7731e4d60de5700036e6a2df7ebae0f5012d",
        ),
        published=Accuracy(MARKET, 92.9, 76.6),
    ),
    _intel(
        "0288",
        _OPEN_MODEL_ZOO,
        xml=(
            616_000,  # about
            "sha384:18814c6445b35224987bc44bcbdb47da6c3826e5da0b6aa00a88c06bf71491a8c4f42e1f62424c077cce46e76a41f7a2",
        ),
        weights=(
            364_098,
            "sha384:0a5ca9d000ce63b078149a3aa3993cd6e92d52fdecf1ff58fbe717481c2043db348938c32fed964846817dc321825a4c",
        ),
        published=Accuracy(MARKET, 86.1, 58.9),
    ),
    NamedModel(
        name="youtu-lite",
        files=(
            RemoteFile(
                "https://github.com/opencv/opencv_zoo/raw/main/models/person_reid_youtureid/person_reid_youtu_2021nov.onnx",
                106_878_407,
                "sha256:0579683334d4b9440221606dcb461656dd0dc64143b18f48faedaced9b4f580d",
            ),
        ),
        authors="Tencent, in OpenCV Zoo",
        licence="Apache-2.0",
        data_terms="Market-1501, DukeMTMC-reID, MSMT17 and CUHK03, which are for research",
        input=NetworkInput(IMAGE_HEIGHT, IMAGE_WIDTH, "RGB", "0-1", MEAN, STD),
        dim=768,  # the output is [1, 768, 1, 1]
        published=Accuracy(MARKET, 95.0, 87.9),
    ),
    _osnet("1.0", 8_900_000, "34c24e98b6b70c8b62480f846fd0d581aa2fd1535bc0276aecf1f10430b731d1"),
    _osnet("0.75", 5_400_000, "57b31d7f806edac586540e08e98c589f0010ad7876dacf4af013deaa284dd26d"),
    _osnet("0.5", 2_700_000, "510bcebae21bd0c0fcc7df388e97d2f687a9ee4befa4394d6fb1fb19aac0bce2"),
    _osnet("0.25", 1_000_000, "ce171fe160b3608f5e4c19489774991419be965b1d6f4bdccc4b4cfd2ef95347"),
)

NAMED_DETECTORS: tuple[NamedDetector, ...] = (
    _yolox("yolox_nano", 416, 3_659_407, "c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d"),
    _yolox("yolox_tiny", 416, 20_219_662, "427cc366d34e27ff7a03e2899b5e3671425c262ea2291f88bb942bc1cc70b0f7"),
    _yolox("yolox_s", 640, 35_858_002, "c5c2d13e59ae883e6af3b45daea64af4833a4951c92d116ec270d9ddbe998063"),
)
PREFERRED_DETECTOR = "yolox-nano"


def find_named_network(name: str) -> NamedModel | NamedDetector | None:
    """The network with this name; None if there is none."""
    networks: tuple[NamedModel | NamedDetector, ...] = (*NAMED_MODELS, *NAMED_DETECTORS)
    return next((network for network in networks if network.name == name), None)
