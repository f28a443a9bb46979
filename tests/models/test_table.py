"""The table of models: what a slip of the keyboard would break, and the files that are at hand."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bot_deploy.choices import COLORS, PIXEL_RANGES
from bot_deploy.models.listing import BOX_ACCURACY
from bot_deploy.models.table import (
    NAMED_DETECTORS,
    NAMED_MODELS,
    PREFERRED_DETECTOR,
    NamedModel,
    NamedNetwork,
    find_named_network,
)

ALL: tuple[NamedNetwork, ...] = (*NAMED_MODELS, *NAMED_DETECTORS)


@pytest.mark.parametrize("network", ALL, ids=lambda network: network.name)
def test_every_entry_can_be_fetched_and_wrapped(network: NamedNetwork) -> None:
    assert network.licence
    assert network.authors
    assert network.data_terms
    for file in network.files:
        address = urlsplit(file.address)
        assert address.scheme == "https"
        assert address.hostname
        assert file.name.endswith((".onnx", ".xml", ".bin", ".pt"))
        algorithm, _, digest = file.checksum.partition(":")
        assert re.fullmatch("[0-9a-f]+", digest)
        assert len(digest) == 2 * hashlib.new(algorithm).digest_size
        assert 300_000 < file.bytes < 200_000_000
    assert network.bytes == sum(file.bytes for file in network.files)
    if network.files[0].name.endswith(".xml"):  # an IR is a pair
        assert [file.name.rpartition(".")[2] for file in network.files] == ["xml", "bin"]
        assert len({file.name.rpartition(".")[0] for file in network.files}) == 1
    assert network.input.color in COLORS
    assert network.input.pixel_range in PIXEL_RANGES
    if isinstance(network, NamedModel):
        assert (network.input.height, network.input.width) == (256, 128)
        for accuracy in filter(None, (network.published, *network.measured)):
            assert 0 < accuracy.mAP < 100
            assert 0 < accuracy.rank1 < 100


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = ((0.0,), (1.0,))
# What the authors' pages say: colour, range, mean and std of the pixels, numbers in an embedding.
INPUTS = {
    **{f"retail-{number}": ("BGR", "0-255", *PLAIN, 256) for number in ("0265", "0277", "0286", "0287", "0288")},
    "youtu-lite": ("RGB", "0-1", *IMAGENET, 768),
    **{f"osnet-ain-x{width}": ("RGB", "0-1", *IMAGENET, 512) for width in ("1.0", "0.75", "0.5", "0.25")},
    **{f"yolox-{size}": ("BGR", "0-255", *PLAIN, None) for size in ("nano", "tiny", "s")},
}


def test_the_inputs_are_those_of_the_authors() -> None:
    assert {
        network.name: (
            network.input.color,
            network.input.pixel_range,
            tuple(network.input.mean),
            tuple(network.input.std),
            network.dim if isinstance(network, NamedModel) else None,
        )
        for network in ALL
    } == INPUTS


def test_names_and_addresses_are_unique() -> None:
    assert len({network.name for network in ALL}) == len(ALL)
    addresses = [file.address for network in ALL for file in network.files]
    assert len(set(addresses)) == len(addresses)
    assert find_named_network(PREFERRED_DETECTOR) is NAMED_DETECTORS[0]
    assert find_named_network("retail") is None


def test_the_files_at_hand_are_those_of_the_table(shared: Path) -> None:
    network = find_named_network("retail-0265")
    assert network
    for file in network.files:
        content = (shared / "anchors" / "person-reidentification-retail-0265" / file.name).read_bytes()
        assert len(content) == file.bytes
        assert file.checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_the_card_of_the_built_in_model_has_the_listed_accuracy() -> None:
    card = (Path(__file__).parents[2] / "docs" / "model.md").read_text(encoding="utf-8")
    for measured in BOX_ACCURACY:
        row = next(line for line in card.splitlines() if re.match(f"\\| {measured.data}.*\\| the file", line))
        assert f"| {measured.rank1:.2f} | {measured.mAP:.2f} |" in row
