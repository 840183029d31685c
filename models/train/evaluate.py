"""Measures a checkpoint with the reference model in float32: bits per byte, acceptance per MTP head, samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.reference import OpenPanguForCausalLM
from pangu_compile.models.train.tokenizer import bos_id

WINDOW, STRIDE = 1024, 512
PROMPTS = ("In the beginning", "And David said unto Jonathan,", "Blessed are")


def load_model(folder: Path) -> OpenPanguForCausalLM:
    """The checkpoint of `folder` as the reference model, its bf16 values in float32."""
    config = OpenPanguConfig.from_file(folder)
    raw = {name: value.float() for name, value in load_file(str(folder / "model.safetensors")).items()}
    model = OpenPanguForCausalLM(config)
    state = {}
    for name in model.state_dict():
        base, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            parts = [torch.cat([raw[f"{base}.{e}.gate_proj.weight"], raw[f"{base}.{e}.up_proj.weight"]])
                     for e in range(config.n_routed_experts)]
            state[name] = torch.stack(parts)
        elif base.endswith(".experts") and last == "down_proj":
            state[name] = torch.stack([raw[f"{base}.{e}.down_proj.weight"] for e in range(config.n_routed_experts)])
        else:
            state[name] = raw[name]
    model.load_state_dict(state)
    return model.eval()


def windows(ids: list[int], bos: int, window: int = WINDOW, stride: int = STRIDE) -> list[tuple[list[int], int]]:
    """([bos, text...], first scored token) so that every token is scored once, with at least `window - stride` context
    (less in the first window)."""
    body, out, at = window - 1, [], 0
    while True:
        begin = max(0, at + stride - body) if at else 0
        end = min(len(ids), at + stride if at else body)
        out.append(([bos, *ids[begin:end]], at - begin + 1))
        if end == len(ids):
            return out
        at = end


@torch.no_grad()
def score(model: OpenPanguForCausalLM, text: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """Held-out figures of `text`: bits_per_byte, acceptance (per head: its argmax equals the trunk's next), tokens."""
    bos = bos_id(tokenizer)
    nats, tokens = 0.0, 0
    heads = model.config.num_nextn_predict_layers
    agreed, counted = [0] * heads, [0] * heads
    for row, first in windows(tokenizer.encode(text).ids, bos):
        batch = torch.tensor([row])
        g = model.hidden(batch)
        trunk = model.logits_from_hidden(g)[0]
        logp = torch.log_softmax(trunk, -1)[first - 1 : -1]
        nats -= float(logp.gather(1, batch[0, first:, None]).sum())
        tokens += len(row) - first
        best = trunk.argmax(-1)
        for j, logits in enumerate(model.mtp_forward(batch, g)):
            # rows p = j .. T-2 of head j+1 propose token p+2; the trunk decides on it at row p+1
            same = (logits[0].argmax(-1) == best[j + 1 :])[max(0, first - 2 - j) :]
            agreed[j] += int(same.sum())
            counted[j] += len(same)
    return {"bits_per_byte": nats / 0.6931471805599453 / len(text.encode()), "bytes": len(text.encode()),
            "tokens": tokens, "acceptance": [a / max(1, c) for a, c in zip(agreed, counted, strict=True)]}


@torch.no_grad()
def sample(model: OpenPanguForCausalLM, tokenizer: Tokenizer, prompt: str, count: int, temperature: float,
           seed: int = 0) -> str:
    """`count` tokens after the prompt; temperature 0 is greedy."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = [bos_id(tokenizer), *tokenizer.encode(prompt).ids]
    for _ in range(count):
        logits: Tensor = model(torch.tensor([ids]))[0, -1]
        if temperature == 0:
            ids.append(int(logits.argmax()))
        else:
            ids.append(int(torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)))
    return str(tokenizer.decode(ids))


def report(folder: Path, held_out: str) -> dict[str, Any]:
    """All figures of a checkpoint folder, as evaluation.json holds them."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = load_model(folder)
    result = score(model, held_out, tokenizer)
    result["samples"] = [
        {"prompt": prompt, "temperature": t, "text": sample(model, tokenizer, prompt, 100, t)}
        for prompt in PROMPTS for t in (0.0, 0.7)
    ]
    (folder / "evaluation.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result
