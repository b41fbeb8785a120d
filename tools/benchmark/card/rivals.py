"""Other implementations of the loss and of the training step, in torch."""

import sys

from oracle import BIAS, LOG_TEMPERATURE, embeddings


def three_matmuls(x, y):
    """A bound: the loss' products by tiles, with nothing between them."""
    import torch

    n, chunk = len(x), min(8192, len(x))
    scores = x.new_empty(chunk, chunk)
    to_x, to_y = torch.empty_like(x[:chunk]), torch.empty_like(y[:chunk])

    def run():
        for i in range(0, n - chunk + 1, chunk):
            for j in range(0, n - chunk + 1, chunk):
                rows, columns = x[i : i + chunk], y[j : j + chunk]
                torch.mm(rows, columns.T, out=scores)
                torch.mm(scores, columns, out=to_x)
                torch.mm(scores.T, rows, out=to_y)
        if x.is_cuda:
            torch.cuda.synchronize()

    return run, {}


def rivals(n, dim, folder):
    """name -> a function that makes (one timed call, what to report), for the losses that can run here."""
    try:
        import torch
    except ImportError:
        return {"torch": "not installed"}
    on_gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    images, texts = embeddings(n, dim)

    def leaves():
        x, y = (torch.tensor(v, device=device, dtype=dtype, requires_grad=True) for v in (images, texts))
        return x, y, *(torch.tensor(float(v), device=device, requires_grad=True) for v in (LOG_TEMPERATURE, BIAS))

    def algorithm_1(x, y, t, b):
        logits = (x @ y.T).float() * t.exp() + b
        labels = 2 * torch.eye(n, device=device) - 1
        return -torch.nn.functional.logsigmoid(labels * logits).sum() / n

    size = min(1024, n)

    def chunked(x, y, t, b):
        def chunk(rows, start):
            logits = (rows @ y.T).float() * t.exp() + b
            labels = -torch.ones_like(logits)
            labels[:, start : start + len(rows)] += 2 * torch.eye(len(rows), device=device)
            return -torch.nn.functional.logsigmoid(labels * logits).sum() / n

        again = torch.utils.checkpoint.checkpoint
        return sum(again(chunk, x[i : i + size], i, use_reentrant=False) for i in range(0, n, size))

    def timed(loss):
        def make():
            inputs = leaves()

            def run():
                for leaf in inputs:
                    leaf.grad = None
                loss(*inputs).backward()
                if on_gpu:
                    torch.cuda.synchronize()

            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            run()
            found = {"temporary_megabytes": (torch.cuda.max_memory_allocated() - before) / 2**20} if on_gpu else {}
            return run, found

        return make

    found = {
        "the three matmuls alone, torch": lambda: three_matmuls(*(leaf.detach() for leaf in leaves()[:2])),
        "Algorithm 1, torch": timed(algorithm_1),
        "Algorithm 1, torch.compile": timed(torch.compile(algorithm_1)) if on_gpu else "needs a GPU here",
        "checkpointed chunks, torch": timed(chunked),
    }
    if not on_gpu:
        return found | {"siglip-kernel": "needs a GPU", "memeff (softmax)": "needs a GPU"}
    sys.path.insert(0, str(folder))
    try:
        import siglip_kernel

        found["siglip-kernel"] = timed(
            lambda x, y, t, b: siglip_kernel.fused_siglip_loss(x, y, t, b, backend="chunked_bf16")
        )
    except Exception as error:  # another library's own reasons
        found["siglip-kernel"] = f"{type(error).__name__}: {error}"
    try:
        import memeff.clip_loss

        names = [name for name in dir(memeff.clip_loss) if name.lower().endswith("cliploss")]
        softmax = getattr(memeff.clip_loss, names[0])(temperature=0.1, normalized_inputs=True)
        found["memeff (softmax)"] = timed(lambda x, y, *_: softmax(x, y))
    except Exception as error:  # likewise
        found["memeff (softmax)"] = f"{type(error).__name__}: {error}"
    return found


def transformers_step(entry):
    """A training step of Hugging Face's SigLIP of the same size in bfloat16, compiled where there is a GPU."""
    import torch
    from transformers import SiglipConfig, SiglipModel

    shape, on_gpu = entry["shape"], torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    common = {
        "hidden_size": shape["width"],
        "intermediate_size": shape["mlp_dim"],
        "num_hidden_layers": shape["depth"],
        "num_attention_heads": shape["heads"],
    }
    text = {**common, "vocab_size": shape["vocab_size"], "max_position_embeddings": shape["text_length"]}
    text |= {"projection_size": shape["width"], "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    vision = {**common, "image_size": shape["image_size"], "patch_size": shape["patch"]}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=on_gpu)
    pixels = torch.rand(entry["n"], 3, shape["image_size"], shape["image_size"], device=device)
    ids = torch.randint(0, shape["vocab_size"], (entry["n"], shape["text_length"]), device=device)
    forward = torch.compile(model) if on_gpu else model

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=on_gpu):
            loss = forward(input_ids=ids, pixel_values=pixels, return_loss=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step, {}
