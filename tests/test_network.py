"""Weights: loaded when they are those of the card, refused in words otherwise."""

import io
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from inference.training import draft
from models.card import ModelCard, ModelError
from models.network import build_network, digest, load_network
from models.resnet import ResNet

DRAFT = replace(draft.DRAFT, architecture="resnet18", pooling="average", scales=(1,))
IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def bytes_of(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def random_network(card: ModelCard = DRAFT) -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build_network(card).eval()


def used(network: ResNet) -> None:
    """Have its normalization be such as training leaves, not such as it is made."""
    generator = torch.Generator().manual_seed(4)
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            for name, tensor in each.state_dict().items():
                if tensor.is_floating_point():
                    low = -0.1 if name in {"bias", "running_mean"} else 0.5
                    tensor.uniform_(low, low + 0.2, generator=generator)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return dict(random_network().state_dict())


@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "resnet50"])
def test_the_two_halves_answer_as_the_whole_network(architecture: str) -> None:
    card = replace(
        DRAFT, architecture=architecture, classes=("No", "Maybe", "Fracture")
    )
    whole = random_network(card)
    used(whole)

    network = load_network(bytes_of(whole.state_dict()), card)

    assert not any(
        isinstance(each, nn.BatchNorm2d) for each in network.features.modules()
    )
    with torch.inference_mode():
        answer = network.head(network.features(IMAGE))
        torch.testing.assert_close(answer, whole(IMAGE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "resnet50"])
def test_an_architecture_is_that_of_torchvision(architecture: str) -> None:
    ours = random_network(replace(DRAFT, architecture=architecture))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = getattr(torchvision_models, architecture)(weights=None, num_classes=2)
    for name, begun in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], begun, rtol=0, atol=0)
    used(ours)
    theirs.load_state_dict(ours.state_dict())

    with torch.inference_mode():
        torch.testing.assert_close(ours(IMAGE), theirs.eval()(IMAGE), rtol=0, atol=0)


def test_to_answer_neither_torchvision_nor_a_compiler_is_imported() -> None:
    """They cost 190 MB and a second in each process."""
    program = """
import sys, api.__main__, dicom_node.worker
from inference.classifier import Classifier, self_test
self_test(Classifier.load(None, "cpu"))
print([each for each in ("torchvision", "torch._dynamo") if each in sys.modules])
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert ended.stdout == "[]\n"


def test_from_four_sides_a_turned_film_is_the_same_film() -> None:
    card = replace(DRAFT, quarter_turns=True)
    content = bytes_of(random_network().state_dict())
    four, one = (load_network(content, each) for each in (card, DRAFT))

    with torch.inference_mode():
        upright, turned = four.features(IMAGE), four.features(IMAGE.rot90(1, (2, 3)))
        looks = [
            one.features(IMAGE.rot90(k, (2, 3))).rot90(-k, (2, 3)) for k in range(4)
        ]

    torch.testing.assert_close(turned, upright.rot90(1, (2, 3)))
    torch.testing.assert_close(upright, torch.stack(looks).mean(dim=0))
    assert not torch.allclose(looks[0], upright, rtol=0.1)


def test_at_two_scales_the_map_is_the_mean_of_both() -> None:
    card = replace(DRAFT, architecture="resnet16_fine", scales=(1, 2))
    content = bytes_of(random_network(card).state_dict())
    both, one = (load_network(content, c) for c in (card, replace(card, scales=(1,))))
    image = IMAGE[..., :32]  # neither square

    with torch.inference_mode():
        found = both.features(image)
        large = one.features(image)
        # Each pixel of the whole is the mean of four; each of its cells covers four.
        quarters = [image[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
        whole = one.features(torch.stack(quarters).mean(dim=0))

    assert found.shape == large.shape == (1, 256, 4, 2)
    assert whole.shape == (1, 256, 2, 1)
    again = 2 * found - large
    # Three quarters of its own cell and a quarter of the next, which is half a cell on.
    torch.testing.assert_close(again[..., 0, 0], whole[..., 0, 0], rtol=0, atol=1e-5)
    mixed = 0.75 * whole[..., 0, 0] + 0.25 * whole[..., 1, 0]
    torch.testing.assert_close(again[..., 1, 0], mixed, rtol=0, atol=1e-5)
    scores = both.head.scores(found)
    parts = both.head.scores(large), both.head.scores(again)
    torch.testing.assert_close(scores, sum(parts) / 2, rtol=0, atol=1e-5)


def test_a_tile_scores_as_the_image_does_where_no_border_is_near() -> None:
    """A pass over the large image is the same as tiles, without their borders."""
    card = replace(DRAFT, architecture="resnet16_fine")
    network = load_network(bytes_of(random_network(card).state_dict()), card)
    image = torch.rand(1, 3, 448, 448, generator=torch.Generator().manual_seed(2))

    with torch.inference_mode():
        pass_ = network.features(image)[..., :14, :14]
        tile = network.features(image[..., :224, :224])

    # A cell sees some 130 pixels to each side, so those in this corner see none beyond.
    near = slice(0, 5)
    torch.testing.assert_close(tile[..., near, near], pass_[..., near, near])
    assert not torch.allclose(tile[..., -1, -1], pass_[..., -1, -1])


def test_half_precision_on_disk_is_single_precision_at_work(
    state: dict[str, Tensor],
) -> None:
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in state.items()
    }

    network = load_network(bytes_of(half), DRAFT)

    assert network.linear.weight.dtype == torch.float32
    torch.testing.assert_close(network.linear.weight, half["fc.weight"].float())


def test_counters_of_batches_may_be_left_out(state: dict[str, Tensor]) -> None:
    without = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}

    load_network(bytes_of(without), DRAFT)


def test_weights_of_another_digest_than_the_cards_are_refused(
    state: dict[str, Tensor],
) -> None:
    content = bytes_of(state)
    card = replace(DRAFT, sha256=digest(content))
    load_network(content, card)

    with pytest.raises(
        ModelError, match=r"not those of their card: SHA-256 is d9298a10d1b0735837dc"
    ):
        load_network(b"other", card)


def test_a_card_without_digest_is_taken_with_a_warning(
    state: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    load_network(bytes_of(state), DRAFT)

    assert "names no SHA-256" in caplog.text


class Trap:
    """A pickle that would do something when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("the trap was sprung",)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x89PNG\r\n", id="another-format"),
        # Of these, torch raises IndexError and struct.error.
        pytest.param(b"\x80\x02.", id="pickle-of-nothing"),
        pytest.param(b"X\x01\x00", id="pickle-cut-off"),
        pytest.param(bytes_of(torch.zeros(9))[:-200], id="cut-off"),
        pytest.param(bytes_of(Trap()), id="code"),
        pytest.param(bytes_of(torch.nn.Linear(2, 2)), id="whole-model"),
    ],
)
def test_what_is_no_plain_tensor_file_is_refused_and_not_run(
    content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=r"Save `model\.state_dict\(\)`"):
        load_network(content, DRAFT)

    assert "sprung" not in capsys.readouterr().out


def test_a_checkpoint_around_the_state_is_refused(state: dict[str, Tensor]) -> None:
    with pytest.raises(ModelError, match="no plain state dictionary"):
        load_network(bytes_of({"epoch": 3, "model": state}), DRAFT)


def test_weights_that_do_not_fit_the_architecture_are_refused_with_their_names(
    state: dict[str, Tensor],
) -> None:
    wrong = {**state, "fc.weight": torch.zeros(3, 512), "extra": torch.zeros(1)}
    del wrong["conv1.weight"]

    with pytest.raises(ModelError) as refused:
        load_network(bytes_of(wrong), DRAFT)

    message = str(refused.value)
    assert "missing: conv1.weight" in message
    assert "unknown: extra" in message
    assert "fc.weight: shape (3, 512), expected (2, 512)" in message


def test_weights_that_are_not_numbers_are_refused(state: dict[str, Tensor]) -> None:
    wrong = {**state, "fc.bias": torch.tensor([0.0, float("nan")])}

    with pytest.raises(ModelError, match=r"fc\.bias: holds numbers that are not fin"):
        load_network(bytes_of(wrong), DRAFT)
