"""A tiny learner without any host: a text is the sum of its words' vectors, changed a little by their places, much as
CLIP's bag of words; an MLP with attention-named layers denoises. Seconds on one core. No test.
"""

from __future__ import annotations

import itertools

import torch
from interplay.guidance.training.contrast import Material
from interplay.guidance.training.learner import Levels
from interplay.guidance.training.lora import inject
from interplay.guidance.training.records import Record
from torch import nn

THINGS = ("cat", "dog", "box", "cup", "car", "bus")
DIM = 16


class Attention(nn.Module):
    """Named as attention is, so that a LoRA finds it."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(96, 96) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(96, 96)])

    def forward(self, h):
        return self.to_out[0](torch.tanh(self.to_q(h)) * self.to_k(h) + self.to_v(h))


class Net(nn.Module):
    """x (B, 16), text (B, 32), level (B, 1) -> noise."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(DIM + 32 + 1, 96)
        self.attn1, self.attn2, self.out = Attention(), Attention(), nn.Linear(96, DIM)

    def forward(self, x, text, level):
        h = torch.relu(self.inside(torch.cat([x, text, level], 1)))
        h = h + torch.relu(self.attn1(h))
        return self.out(h + torch.relu(self.attn2(h)))


class World:
    """Learner: pictures are [thing on the left, thing on the right] + noise; captions "cat left of dog"."""

    shape = (1, 4, 4)

    def __init__(self, seed: int = 0, train: int = 400) -> None:
        torch.manual_seed(seed)
        self.words = {w: torch.randn(32) for w in (*THINGS, "left", "of")}
        self.places = 1 + 0.15 * torch.randn(2, 32)
        self.looks = {w: torch.randn(DIM // 2) for w in THINGS}
        self.pairs = list(itertools.permutations(THINGS, 2))
        self.net = Net()
        optimiser = torch.optim.Adam(self.net.parameters(), 3e-3)
        for _ in range(train):
            index = torch.randint(0, len(self.pairs), (128,))
            drop = torch.rand(128) < 0.15
            texts = [
                "" if d else self.caption(self.pairs[i]) for i, d in zip(index.tolist(), drop.tolist(), strict=True)
            ]
            clean = self.pictures([self.pairs[i] for i in index])
            levels, noise = self.levels(torch.rand(128) * 0.9 + 0.05), torch.randn_like(clean)
            x = levels.signal * clean + levels.noise * noise
            said = self.net(x.flatten(1), self.condition(texts), levels.name[:, None])
            error = (said - noise.flatten(1)).square().mean()
            optimiser.zero_grad()
            error.backward()
            optimiser.step()
        self.net.requires_grad_(False)
        self.lora = inject(self.net, 8, seed=seed)

    def caption(self, pair) -> str:
        return f"{pair[0]} left of {pair[1]}"

    def pictures(self, pairs):
        clean = torch.stack([torch.cat([self.looks[a], self.looks[b]]) for a, b in pairs])
        return (clean + 0.3 * torch.randn(clean.shape)).view(-1, *self.shape)

    def material(self, n: int = 240) -> Material:
        torch.manual_seed(5)
        pairs = [self.pairs[i % len(self.pairs)] for i in range(n)]
        records = [Record(str(i), self.caption(p), (self.caption(p[::-1]),)) for i, p in enumerate(pairs)]
        return Material(records, self.pictures(pairs))

    def levels(self, u):
        angle = u * torch.pi / 2
        return Levels.of("eps", u, torch.cos(angle), torch.sin(angle))

    def condition(self, texts):
        out = []
        for text in texts:
            spoken = text.split()
            rows = [self.words[w] * self.places[min(i, 1)] for i, w in enumerate(spoken)]
            out.append(torch.stack(rows).sum(0) if rows else torch.zeros(32))
        return torch.stack(out)

    def denoise(self, x, levels, condition):
        said = self.net(x.flatten(1), condition, levels.name[:, None]).view_as(x)
        return (x - levels.noise * said) / levels.signal

    def decode(self, latents):
        return latents.expand(-1, 3, -1, -1)

    def parameters(self):
        return list(self.lora.parameters())

    def adapter_off(self):
        return self.lora.off()

    def heavy(self):
        return (self.net,)

    def device(self):
        return torch.device("cpu")

    @torch.no_grad()
    def image_score(self, n: int = 120) -> float:
        """Share of pairs of pictures told apart by both captions, Winoground's image score, minus the empty caption."""
        torch.manual_seed(9)
        hits = []
        pairs = [self.pairs[i % len(self.pairs)] for i in range(n)]
        clean = [self.pictures(pairs), self.pictures([p[::-1] for p in pairs])]
        score = torch.zeros(2, 2, n)
        for step in range(8):
            levels = self.levels(torch.full((n,), 0.25 + 0.08 * step))
            noise = torch.randn(1, *self.shape)
            for i, own in enumerate(clean):
                x = levels.signal * own + levels.noise * noise
                texts = [[self.caption(p) for p in pairs], [self.caption(p[::-1]) for p in pairs], [""] * n]
                found = [(self.denoise(x, levels, self.condition(t)) - own).square().flatten(1).mean(1) for t in texts]
                for t in range(2):
                    score[t, i] += found[2] - found[t]
        hits = (score[0, 0] > score[0, 1]) & (score[1, 1] > score[1, 0])
        return float(hits.float().mean())
