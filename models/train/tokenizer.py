"""The tokenizer of the small checkpoint: byte-level BPE with openPangu's special tokens."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, MESSAGE_START, MESSAGE_END, PAD = "<|pangu_text_start|>", "<|message_start|>", "<|message_end|>", "<|pad|>"
SPECIAL = [BOS, MESSAGE_START, MESSAGE_END, PAD]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|message_start|>{{ m['role'] }}\n{{ m['content'] }}<|message_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|message_start|>assistant\n{% endif %}"
)


def train_tokenizer(text: str, vocab_size: int) -> Tokenizer:
    """A byte-level BPE of exactly `vocab_size` ids, the special tokens first (ids 0..3)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(text.split("\n\n"), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {str(tokenizer.token_to_id(t)): {"content": t, "special": True, "lstrip": False, "rstrip": False,
                                             "normalized": False, "single_word": False} for t in SPECIAL}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": MESSAGE_END,
              "pad_token": PAD, "model_max_length": context, "clean_up_tokenization_spaces": False,
              "added_tokens_decoder": added, "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def bos_id(tokenizer: Tokenizer) -> int:
    """The id that every prompt starts with."""
    found = tokenizer.token_to_id(BOS)
    assert found is not None, BOS
    return found
