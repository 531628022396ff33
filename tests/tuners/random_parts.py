"""Random CLIP, language model, Grounding DINO and SAM of a few thousand weights, in the folders that stage 2 reads."""

from pathlib import Path

import torch

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", *(f"w{k}" for k in range(20)), "circle", "square", "red", "a",
         "photo", "of")  # fmt: skip


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def save_words(folder: Path, length: int = 64) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        bos_token="[CLS]", eos_token="[SEP]", model_max_length=length,
    ).save_pretrained(folder)  # fmt: skip


def save_clip(folder: Path, tags: str) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    save_words(folder, 16)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": len(WORDS), "max_position_embeddings": 16, "bos_token_id": 2,
                     "eos_token_id": 3, "pad_token_id": 0},
        vision_config={**tower, "image_size": 16, "patch_size": 8}, projection_dim=8,
    )  # fmt: skip
    seeded(lambda: CLIPModel(config)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    (folder / "tags.txt").write_text(tags, "utf-8")
    return folder


def save_language_model(folder: Path) -> Path:
    from transformers import OPTConfig, OPTForCausalLM

    save_words(folder, 512)
    config = OPTConfig(
        vocab_size=len(WORDS), hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=512, word_embed_proj_dim=16, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    seeded(lambda: OPTForCausalLM(config)).save_pretrained(folder)
    return folder


def save_grounded_sam(folder: Path) -> Path:
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessorPil,
        SamConfig,
        SamImageProcessorPil,
        SamModel,
        SwinConfig,
    )

    dino, sam = folder / "grounding-dino", folder / "sam"
    save_words(dino)
    swin = SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 1, 1], window_size=2,
        out_features=["stage1", "stage2", "stage3"],
    )  # fmt: skip
    bert = BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                      intermediate_size=32, max_position_embeddings=64)  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=bert, d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=6, max_text_len=64,
        encoder_n_points=2, decoder_n_points=2, disable_custom_kernels=True,
    )  # fmt: skip
    seeded(lambda: GroundingDinoForObjectDetection(config)).save_pretrained(dino)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(dino)

    config = SamConfig(
        vision_config={"hidden_size": 16, "output_channels": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": 32, "patch_size": 8, "global_attn_indexes": [0], "num_pos_feats": 4,
                       "mlp_dim": 32, "window_size": 2},
        prompt_encoder_config={"hidden_size": 8, "image_size": 32, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 8, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                             "iou_head_hidden_dim": 8},
    )  # fmt: skip
    seeded(lambda: SamModel(config)).save_pretrained(sam)
    SamImageProcessorPil(size={"longest_edge": 32}).save_pretrained(sam)
    return folder
