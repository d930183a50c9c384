"""Writes a tiny random Z-Image model, without any download: for trials and tests.

The shapes that matter to a server are the real ones (VAE factor 8, patch 2, 16 latent
channels, captions padded to 32, the released position tables); widths and depths are tiny.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

SEED = 0
HIDDEN = 64

# A cut-down ChatML template with the two things the pipeline asks of it:
# add_generation_prompt=True and enable_thinking=True (which adds no <think> block).
CHAT_TEMPLATE = (
    "{%- for m in messages -%}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif -%}"
    "{%- endif -%}"
)


def tokenizer() -> Any:
    """A byte-level BPE without merges: 256 byte symbols and Qwen's special tokens."""
    vocab = {symbol: number for number, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for special in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        vocab[special] = len(vocab)
    made = Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=131072)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.padding_side = "right"
    made.chat_template = CHAT_TEMPLATE
    return made


def transformer() -> Any:
    """Two blocks; dim 64 and axes_dims that sum to dim / n_heads are what the code insists on."""
    return ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=HIDDEN,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        norm_eps=1e-5,
        qk_norm=True,
        cap_feat_dim=HIDDEN,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[16, 8, 8],
        axes_lens=[1536, 512, 512],
    )


def vae() -> Any:
    """Four blocks give the real scale factor of 8."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=1024,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=True,
        force_upcast=True,
    )


def text_encoder(vocabulary: int) -> Any:
    """Three layers, so that hidden_states[-2] exists and differs from the last."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=4096,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
    )
    return Qwen3Model(config)


def write(folder: Path) -> int:
    """Write the model into `folder` and return its size in bytes; the same bytes every time."""
    torch.manual_seed(SEED)
    words = tokenizer()
    parts = (transformer(), vae(), text_encoder(len(words)))
    diffusion, decoder, encoder = (part.to(torch.bfloat16).eval() for part in parts)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=False)
    pipeline = ZImagePipeline(
        scheduler=scheduler, vae=decoder, text_encoder=encoder, tokenizer=words, transformer=diffusion
    )
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    readable_by_all(folder)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def readable_by_all(folder: Path) -> None:
    """save_pretrained writes weights with mode 0600: unreadable for a worker with another uid."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
