"""Trains the small checkpoint: corpus -> tokenizer -> parameters -> a Hugging Face folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pangu_compile.models.train.data import Batches, load_corpus
from pangu_compile.models.train.export import save_checkpoint
from pangu_compile.models.train.fast import FastModel
from pangu_compile.models.train.init import CONFIG, initial_parameters
from pangu_compile.models.train.optimiser import Optimiser, Schedule
from pangu_compile.models.train.tokenizer import bos_id, save_tokenizer, train_tokenizer

HELD_OUT_ROWS = 8


@dataclass(frozen=True)
class Options:
    """Everything that decides the result. Up to the decay phase a run does not depend on `steps`."""

    out: Path
    work: Path
    steps: int = 1080
    warmup: int = 50
    decay: int = 480
    batch: int = 8
    length: int = 512
    long_steps: int = 70  # the last steps use windows twice as long, half as many
    dense_steps: int = 150  # the first steps attend to all keys while the indexers learn
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    weight_decay: float = 0.05
    draft_weight: float = 0.2
    balance: float = 2e-3
    seed: int = 1
    threads: int = 1  # more is faster on an idle machine, and rounds differently
    snapshot_seconds: float = 240.0


class Run:
    """One training run; its state is saved in work/snapshot.pt and found again on the next start."""

    def __init__(self, options: Options) -> None:
        self.o = options
        torch.set_num_threads(options.threads)
        torch.manual_seed(options.seed)
        train, held = load_corpus(options.work)
        self.config: dict[str, Any] = dict(CONFIG)
        tokenizer = train_tokenizer(train, self.config["vocab_size"])
        save_tokenizer(tokenizer, options.out, self.config["max_position_embeddings"])
        newline, bos = tokenizer.encode("\n").ids[0], bos_id(tokenizer)
        self.batches = Batches(torch.tensor(tokenizer.encode(train).ids), newline, bos, options.seed)
        held_ids = torch.tensor(tokenizer.encode(held).ids)
        self.bytes_per_token = len(held.encode()) / len(held_ids)
        self.held = Batches(held_ids, newline, bos, 0).next(HELD_OUT_ROWS, options.length + 2)
        self.params = initial_parameters(self.config, options.seed)
        for name, p in self.params.items():
            p.requires_grad_("e_score_correction_bias" not in name)
        self.model = FastModel(self.config, self.params)
        self.optimiser = Optimiser(self.params, options.muon_lr, options.adam_lr, options.weight_decay)
        self.schedule = Schedule(options.steps, options.warmup, options.decay)
        self.step, self.seconds = 0, 0.0
        print(f"corpus: {len(train)} characters, {len(self.batches.ids)} tokens; held out {len(held)} characters; "
              f"{sum(p.numel() for p in self.params.values())} parameters", flush=True)

    def train_step(self) -> dict[str, Tensor]:
        """One optimiser step; returns the losses."""
        o = self.o
        long = self.step >= o.steps - o.long_steps
        batch, length = (o.batch // 2, o.length * 2) if long else (o.batch, o.length)
        topk = self.config["index_topk"] if self.step >= o.dense_steps else length
        # the heads learn the text first; later mostly the trunk's own choice, which is what acceptance measures
        distil = 0.5 + 0.4 * self.schedule.decayed(self.step)
        losses, loads, _ = self.model.forward(self.batches.next(batch, length + 2), topk, distil)
        total = losses["trunk"] + losses["indexer"]
        total = total + o.draft_weight * sum(v for k, v in losses.items() if k.startswith("mtp"))
        torch.autograd.backward(total)
        factor = self.schedule.factor(self.step)
        self.optimiser.step(factor)
        for layer, load in loads.items():
            bias = self.params[f"model.layers.{layer}.mlp.e_score_correction_bias"]
            bias += o.balance * factor * torch.sign(load.mean() - load)
        return losses

    def report(self, losses: dict[str, Tensor]) -> None:
        """Prints training losses, held-out bits per byte and acceptance (on a fixed small held-out sample)."""
        held, loads, agree = self.model.forward(self.held, self.config["index_topk"], 0.9)
        bits = held["trunk"].item() / 0.6931472 / self.bytes_per_token
        worst = max(v.max().item() for v in loads.values()) * self.config["n_routed_experts"]
        worst /= self.config["num_experts_per_tok"]
        print(f"step {self.step}/{self.o.steps} {self.seconds:.0f}s",
              " ".join(f"{k} {v.item():.3f}" for k, v in losses.items()), f"| held-out bits/byte {bits:.3f} accept",
              " ".join(f"{v.item():.3f}" for v in agree.values()), f"max load {worst:.2f}", flush=True)

    def save(self) -> None:
        """Writes the snapshot and the checkpoint as it stands."""
        state = {"step": self.step, "seconds": self.seconds, "params": {k: v.detach() for k, v in self.params.items()},
                 "optimiser": self.optimiser.state(), "generator": self.batches.generator.get_state()}
        part = self.o.work / "snapshot.part"
        torch.save(state, part)
        part.replace(self.o.work / "snapshot.pt")
        save_checkpoint(self.o.out, self.config, self.params)

    def resume(self) -> None:
        """Continues from work/snapshot.pt if it is there."""
        path = self.o.work / "snapshot.pt"
        if not path.exists():
            return
        state = torch.load(path)
        with torch.no_grad():
            for name, value in state["params"].items():
                self.params[name].copy_(value)
        self.optimiser.load(state["optimiser"])
        self.batches.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]
        print(f"resumed at step {self.step}", flush=True)

    def run(self) -> None:
        """Trains to the last step, saving on the way."""
        saved = time.monotonic()
        while self.step < self.o.steps:
            start = time.monotonic()
            losses = self.train_step()
            self.step += 1
            self.seconds += time.monotonic() - start
            if self.step % 50 == 0 or self.step in (1, 10, self.o.steps):
                self.report(losses)
            if time.monotonic() - saved > self.o.snapshot_seconds:
                self.save()
                saved = time.monotonic()
        self.save()
