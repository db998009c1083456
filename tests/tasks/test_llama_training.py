import math

import pytest
import torch
from torch import nn

from frontrunner.errors import ConfigError
from frontrunner.tasks import experts, llama_training
from frontrunner.tasks.experts import Recipe
from frontrunner.tasks.tiny_llama import TinyLlama, plain_ids, train_tokenizer


class Bigram(nn.Module):
    """Token ids -> logits, with one inner matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Embedding(8, 16)
        self.inner = nn.Linear(16, 16)
        self.head = nn.Linear(16, 8)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.inner(self.inputs(ids)))
        return logits


def bigram() -> Bigram:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Bigram()


def losses(network: nn.Module, texts: list[torch.Tensor]) -> list[float]:
    with torch.no_grad():
        return [float(llama_training.next_token_loss(network(x[None]), x[None])) for x in texts]


# Two texts in which each token says what follows.
TEXTS = [torch.arange(200) % 4, 4 + torch.arange(100) % 3]


def test_training_learns_every_text_and_repeats_itself() -> None:
    trained = []
    for _ in range(2):
        network = bigram()
        llama_training.train(network, TEXTS, Recipe(60, 4, 2e-2), seed=3, length=10)
        trained.append(network)
    before = losses(bigram(), TEXTS)
    after = losses(trained[0], TEXTS)
    assert all(a < 0.2 * b for a, b in zip(after, before, strict=True))
    states = [network.state_dict() for network in trained]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_muon_takes_the_steps_of_pytorch_s() -> None:
    torch.manual_seed(0)
    shapes = [(24, 24), (24, 24), (40, 24), (24, 40)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    one = llama_training.Muon(ours)
    other = torch.optim.Muon(theirs, weight_decay=0, adjust_lr_fn="match_rms_adamw")
    for optimizer in (one, other):
        optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        before = [p.detach().clone() for p in ours]
        one.step()
        other.step()
        for p, q, start in zip(ours, theirs, before, strict=True):
            moved = (p - start).detach()
            # bfloat16 has eight bits.
            assert (p - q).detach().abs().max() < 0.05 * moved.abs().max()
            q.data.copy_(p.data)


def test_orthogonal_brings_singular_values_near_one() -> None:
    found = llama_training.orthogonal(torch.randn(3, 20, 12, generator=torch.Generator()), 5)
    values = torch.linalg.svdvals(found)
    assert found.shape == (3, 20, 12)
    assert ((values > 0.3) & (values < 1.3)).all()


def test_a_text_of_one_sample_is_long_enough() -> None:
    network = bigram()
    llama_training.train(network, [TEXTS[0][:10]], Recipe(2, 2, 1e-3), seed=0, length=10)
    assert all(math.isfinite(x) for x in losses(network, TEXTS))


def test_digits_are_tokens_of_their_own() -> None:
    lines = ["123 + 123 = 246\n" * 200 + "words and words\n" * 50]
    whole = plain_ids(train_tokenizer(lines, 512))
    single = plain_ids(train_tokenizer(lines, 512, digits=True))
    assert len(whole("123")) == 1
    assert len(single("123")) == 3
    assert len(single("words")) == len(whole("words"))


@pytest.mark.parametrize(
    "wrong",
    [{"optimizer": "sgd"}, {"sample_length": 64}, {"optimizer": "muon", "sample_length": 1}],
)
def test_a_training_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="optimizer"):
        TinyLlama(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("each", "told"), [(1.0, "  that takes about 94 s more\n"), (0.1, "")])
def test_what_takes_long_says_how_long(monkeypatch, capsys, each, told):
    clock = iter(each * i for i in range(1000))
    monkeypatch.setattr(experts.time, "monotonic", lambda: next(clock))
    assert list(experts.paced(100)) == list(range(100))
    assert capsys.readouterr().err == told
    assert list(experts.paced(0)) == []
