"""Made `hugging_face/` here: a random `SiglipModel` of transformers, saved by its own code, and its outputs.

    python make_hugging_face.py

Needs torch and transformers. The tests draw the inputs again from the seed below.
"""

from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

HERE = Path(__file__).parent
VISION = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 17,
    "patch_size": 5,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 7,
    "vocab_size": 37,
    "projection_size": 12,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 1,
}

torch.manual_seed(5)
model = SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION)).eval()
with torch.no_grad():
    for parameter in model.parameters():  # away from the initial values, so that a lost bias or scale shows
        parameter.add_(0.1 * torch.randn_like(parameter))
model.save_pretrained(HERE / "hugging_face")
SiglipImageProcessor(size={"height": 17, "width": 17}).save_pretrained(HERE / "hugging_face")

rng = np.random.default_rng(7)
images = rng.uniform(-1, 1, (2, 17, 17, 3)).astype(np.float32)
texts = rng.integers(0, 37, (2, 7))
with torch.no_grad():
    found = model(input_ids=torch.tensor(texts), pixel_values=torch.tensor(images).permute(0, 3, 1, 2))
np.savez(
    HERE / "hugging_face_outputs.npz",
    image=found.image_embeds,
    text=found.text_embeds,
    logits=found.logits_per_image,
    made_with=np.array(f"transformers {transformers.__version__}, torch {torch.__version__}"),
)
