"""Training on drawn bones: the weights that the node ships until it has real ones.

What comes out knows phantoms and nothing else. It is for trying the node out and for
its tests, and its card says so.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from torchvision.models import ResNet

from inference.classifier import record
from inference.training.dataset import GRID, Example, phantom_batch
from models.card import FRACTURE, ModelCard, card_text
from models.network import COUNTER, Network, build_network, halves

Progress = Callable[[int, int, float], None]
"""Called after each step with steps done, steps in all, and the loss."""

STEPS = 520
BATCH = 16

DRAFT = ModelCard(
    name="fracture-resnet18-phantom",
    version="0.1.0",
    architecture="resnet18",
    classes=(FRACTURE, "No Fracture"),
    input_size=224,
    resize="letterbox",
    mean=(0.25, 0.25, 0.25),
    std=(0.25, 0.25, 0.25),
    temperature=1.0,
    doubtful=0.5,
    definite=0.8,
    body_parts=(),
    sha256="",
    phantom_logits={},
)
"""The card before there are weights."""

HEADER = """\
# Trained on drawn phantoms only: it knows nothing of real bones. For trying the node
# out and for its tests; any answer on a real radiograph is meaningless.
"""

EARLY, EARLY_SIZE = 0.6, 128
"""The first share of the steps is made on small pictures, three times as fast."""

FIRST_SEED = 1_000_000
"""Of the phantoms trained on; those below are free for tests."""


def train_on_phantoms(
    out: Path,
    *,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
) -> ModelCard:
    """Train a ResNet18 from nothing to find the break in drawn bones.

    The same arguments on the same machine give the same weights.

    Args:
        out: The .pth file to write; the card goes beside it.
        steps: Of 16 phantoms each.
        seed: Decides the first weights and the phantoms.
        device: "cpu" or "cuda".
        progress: Told after each step.

    Returns:
        The card that was written.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(DRAFT).to(device)
        first = FIRST_SEED * (seed + 1)
        for done, loss in enumerate(_fit(network, first, steps, device), start=1):
            progress(done, steps, loss)
    held_out = range(first - min(2 * steps, 160), first)
    temperature = _temperature(network.eval(), held_out, device)
    out.write_bytes(_halved(network))
    card = replace(DRAFT, temperature=temperature)
    out.with_suffix(".toml").write_text(HEADER + card_text(card), "utf-8")
    return record(out)


def _fit(network: ResNet, first: int, steps: int, device: str) -> Iterator[float]:
    """Take the steps, yielding each one's loss."""
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.5e-3, total_steps=steps + 1
    )
    parts = halves(network)
    for step in range(steps):
        size = EARLY_SIZE if step < EARLY * steps else DRAFT.input_size
        seeds = range(first + step * BATCH, first + (step + 1) * BATCH)
        batch = phantom_batch(seeds, replace(DRAFT, input_size=size)).to(device)
        loss = _loss(parts, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        rate.step()
        yield loss.item()


def _loss(network: Network, batch: Example) -> Tensor:
    """What the network should answer, and what its heatmap should point at.

    The second makes a network that has seen little point at the break itself rather
    than at whatever goes with it.
    """
    activation = network.features(batch.tensor)
    logits = network.head(activation)
    # Smoothed, so that the answer is never all but certain.
    answer = F.cross_entropy(logits, batch.label, label_smoothing=0.05)
    fracture = DRAFT.classes.index(FRACTURE)
    heat = torch.einsum("k,bkij->bij", network.linear.weight[fracture], activation)
    fine = F.interpolate(heat[:, None], (GRID, GRID), mode="bicubic")[:, 0]
    chance = fine.flatten(1).log_softmax(dim=1)
    hits = (batch.place.flatten(1) * chance).sum()
    pointing = -hits / batch.place.sum().clamp(min=1)
    stray = (fine.relu() * (batch.place < 1e-4)).mean()  # noqa: PLR2004 - the foot of the hill
    return answer + 0.2 * pointing + 0.02 * stray


def _temperature(network: ResNet, seeds: range, device: str) -> float:
    """Fit the temperature to phantoms held out; it may only soften the answers.

    A network without a single error on drawings would otherwise be made certain.
    """
    logits, labels = [], []
    with torch.inference_mode():
        for start in range(seeds.start, seeds.stop, BATCH):
            part = range(start, min(start + BATCH, seeds.stop))
            batch = phantom_batch(part, DRAFT).to(device)
            logits.append(network(batch.tensor).cpu())
            labels.append(batch.label.cpu())
    answers, truth = torch.cat(logits), torch.cat(labels)
    candidates = [1 + step / 20 for step in range(81)]
    return min(candidates, key=lambda t: float(F.cross_entropy(answers / t, truth)))


def _halved(network: ResNet) -> bytes:
    """The weights file: matrices in half precision, which halves it.

    Vectors stay as they are: variances of batch normalization may be too small.
    """
    state = {
        name: (value.half() if value.ndim > 1 else value).cpu()
        for name, value in network.state_dict().items()
        if not name.endswith(COUNTER)
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
