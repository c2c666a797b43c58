"""Loading of weights, and errors for weights that do not match their model card."""

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


def randomize_normalization(network: ResNet) -> None:
    """Set weights and statistics of batch normalization to random values.

    With its initial values, batch normalization has almost no effect in eval mode.
    """
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
def test_features_and_head_give_the_output_of_the_whole_network(
    architecture: str,
) -> None:
    card = replace(
        DRAFT, architecture=architecture, classes=("No", "Maybe", "Fracture")
    )
    whole = random_network(card)
    randomize_normalization(whole)

    network = load_network(bytes_of(whole.state_dict()), card)

    assert not any(
        isinstance(each, nn.BatchNorm2d) for each in network.features.modules()
    )
    with torch.inference_mode():
        output = network.head(network.features(IMAGE))
        torch.testing.assert_close(output, whole(IMAGE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "resnet50"])
def test_architecture_equals_that_of_torchvision(architecture: str) -> None:
    network = random_network(replace(DRAFT, architecture=architecture))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        reference = getattr(torchvision_models, architecture)(
            weights=None, num_classes=2
        )
    for name, initial in reference.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], initial, rtol=0, atol=0)
    randomize_normalization(network)
    reference.load_state_dict(network.state_dict())

    with torch.inference_mode():
        torch.testing.assert_close(
            network(IMAGE), reference.eval()(IMAGE), rtol=0, atol=0
        )


def test_inference_imports_neither_torchvision_nor_the_compiler() -> None:
    """The two imports would take 190 MB and one second in each process."""
    program = """
import sys, torch, api.__main__, dicom_node.worker.__main__
from inference.classification.classifier import Classifier, self_test
torch.set_num_threads(1)  # as these processes do
self_test(Classifier.load(None, "cpu"))
print([each for each in ("torchvision", "torch._dynamo") if each in sys.modules])
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert ended.stdout == "[]\n"


def test_features_of_four_rotations_are_equivariant_under_rotation() -> None:
    card = replace(DRAFT, quarter_turns=True)
    content = bytes_of(random_network().state_dict())
    four, one = (load_network(content, each) for each in (card, DRAFT))

    with torch.inference_mode():
        upright, rotated = four.features(IMAGE), four.features(IMAGE.rot90(1, (2, 3)))
        rotations = [
            one.features(IMAGE.rot90(k, (2, 3))).rot90(-k, (2, 3)) for k in range(4)
        ]

    torch.testing.assert_close(rotated, upright.rot90(1, (2, 3)))
    torch.testing.assert_close(upright, torch.stack(rotations).mean(dim=0))
    assert not torch.allclose(rotations[0], upright, rtol=0.1)


def test_features_of_two_scales_are_the_mean_of_both() -> None:
    card = replace(DRAFT, architecture="resnet16_fine", scales=(1, 2))
    content = bytes_of(random_network(card).state_dict())
    both, one = (load_network(content, c) for c in (card, replace(card, scales=(1,))))
    image = IMAGE[..., :32]  # not square

    with torch.inference_mode():
        found = both.features(image)
        large = one.features(image)
        # A pixel of the small image is the mean of four pixels of the large image.
        quarters = [image[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
        small = one.features(torch.stack(quarters).mean(dim=0))

    assert found.shape == large.shape == (1, 256, 4, 2)
    assert small.shape == (1, 256, 2, 1)
    small_upsampled = 2 * found - large
    # Interpolation: the first value is that of the first cell. The second value is
    # three quarters of the first cell and one quarter of the second.
    torch.testing.assert_close(
        small_upsampled[..., 0, 0], small[..., 0, 0], rtol=0, atol=1e-5
    )
    mixed = 0.75 * small[..., 0, 0] + 0.25 * small[..., 1, 0]
    torch.testing.assert_close(small_upsampled[..., 1, 0], mixed, rtol=0, atol=1e-5)
    scores = both.head.scores(found)
    parts = both.head.scores(large), both.head.scores(small_upsampled)
    torch.testing.assert_close(scores, sum(parts) / 2, rtol=0, atol=1e-5)


def test_features_of_a_tile_equal_those_of_the_image_away_from_borders() -> None:
    """Features of tile and image are equal, except near the borders of the tile."""
    card = replace(DRAFT, architecture="resnet16_fine")
    network = load_network(bytes_of(random_network(card).state_dict()), card)
    image = torch.rand(1, 3, 448, 448, generator=torch.Generator().manual_seed(2))

    with torch.inference_mode():
        whole = network.features(image)[..., :14, :14]
        tile = network.features(image[..., :224, :224])

    # A cell depends on about 130 pixels to each side, so this corner sees no border.
    near = slice(0, 5)
    torch.testing.assert_close(tile[..., near, near], whole[..., near, near])
    assert not torch.allclose(tile[..., -1, -1], whole[..., -1, -1])


def test_half_precision_weights_are_loaded_as_single_precision(
    state: dict[str, Tensor],
) -> None:
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in state.items()
    }

    network = load_network(bytes_of(half), DRAFT)

    assert network.linear.weight.dtype == torch.float32
    torch.testing.assert_close(network.linear.weight, half["fc.weight"].float())


def test_weights_may_lack_batch_counters(state: dict[str, Tensor]) -> None:
    without = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}

    load_network(bytes_of(without), DRAFT)


def test_weights_with_another_digest_than_the_model_card_are_rejected(
    state: dict[str, Tensor],
) -> None:
    content = bytes_of(state)
    card = replace(DRAFT, sha256=digest(content))
    load_network(content, card)

    with pytest.raises(
        ModelError, match=r"their card: their SHA-256 is d9298a10d1b0735837dc"
    ):
        load_network(b"other", card)


def test_model_card_without_digest_is_accepted_with_a_warning(
    state: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    load_network(bytes_of(state), DRAFT)

    assert "has no SHA-256" in caplog.text


class CodePickle:
    """An object that runs code when it is loaded from a pickle."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code was executed",)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x89PNG\r\n", id="another-format"),
        # torch raises IndexError and struct.error for these.
        pytest.param(b"\x80\x02.", id="pickle-of-nothing"),
        pytest.param(b"X\x01\x00", id="pickle-cut-off"),
        pytest.param(bytes_of(torch.zeros(9))[:-200], id="cut-off"),
        pytest.param(bytes_of(CodePickle()), id="code"),
        pytest.param(bytes_of(torch.nn.Linear(2, 2)), id="whole-model"),
    ],
)
def test_file_that_is_not_only_tensors_is_rejected_and_not_executed(
    content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=r"Save `model\.state_dict\(\)`"):
        load_network(content, DRAFT)

    assert "executed" not in capsys.readouterr().out


def test_checkpoint_with_a_nested_state_dict_is_rejected(
    state: dict[str, Tensor],
) -> None:
    with pytest.raises(ModelError, match="than a plain state dictionary"):
        load_network(bytes_of({"epoch": 3, "model": state}), DRAFT)


def test_error_names_the_weights_that_do_not_fit_the_architecture(
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


def test_weights_with_nan_are_rejected(state: dict[str, Tensor]) -> None:
    wrong = {**state, "fc.bias": torch.tensor([0.0, float("nan")])}

    with pytest.raises(
        ModelError, match=r"fc\.bias: contains numbers that are not fin"
    ):
        load_network(bytes_of(wrong), DRAFT)
