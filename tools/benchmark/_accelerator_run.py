"""Runs prepared programs on this machine's accelerator through jax, checks them and times them beside rivals.

python run.py [--rounds 10] [--rivals FOLDER] [--seconds 600] [--profile]
python run.py --plan          no card: XLA's compiler plans the programs for an H100 and says how much memory each takes

It needs numpy and jax, no TensorFlow and nothing of siglip_tf. `python -m tools.benchmark accelerator` puts it beside
the programs it runs. Rivals need torch; siglip-kernel and memeff are looked for in FOLDER, where their wheels are
installed (`pip install --no-deps --target FOLDER siglip-kernel memeff`). Results go to results.json and results.md.
"""

import argparse
import concurrent.futures
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).parent
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory on the same card
LOG_TEMPERATURE, BIAS = np.float32(np.log(10)), np.float32(-10)
SAMPLE = 64  # rows and columns whose gradients are compared with float64 where the batch is large
WHOLE = 8192  # up to here all of them are, and the loss


def embeddings(n, dim):
    """Unit vectors with noise between the two sides of a pair: images, texts, float32 (n, dim)."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((n, dim), np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts = rng.standard_normal((n, dim), np.float32)
    texts = 0.7 * images + 0.3 * texts / np.linalg.norm(texts, axis=1, keepdims=True)
    return images, texts / np.linalg.norm(texts, axis=1, keepdims=True)


def errors(images, texts, loss, image_gradient, text_gradient):
    """Largest relative errors against float64: of the loss where all pairs can be visited, and of sampled gradients."""
    n = len(images)
    rows = np.arange(n) if n <= WHOLE else np.random.default_rng(1).choice(n, SAMPLE, replace=False)
    found = {}
    total = 0.0
    for name, own, other, gradient in (
        ("image gradient", images, texts, image_gradient),
        ("text gradient", texts, images, text_gradient),
    ):
        worst, largest = 0.0, 0.0
        for start in range(0, len(rows), 256):
            chosen = rows[start : start + 256]
            x, y = own[chosen].astype(np.float64), other.astype(np.float64)
            logits = np.exp(np.float64(LOG_TEMPERATURE)) * x @ y.T + np.float64(BIAS)
            z = np.where(chosen[:, None] == np.arange(n)[None, :], 1.0, -1.0)
            if name == "image gradient":
                total += np.sum(np.logaddexp(0, -z * logits)) / n
            slopes = -z / (1 + np.exp(z * logits)) / n
            expected = np.exp(np.float64(LOG_TEMPERATURE)) * slopes @ y
            worst = max(worst, np.max(np.abs(np.asarray(gradient)[chosen] - expected)))
            largest = max(largest, np.max(np.abs(expected)))
        found[name] = worst / largest
    if n <= WHOLE:
        found["loss"] = abs(float(loss) / total - 1)
    return found


class Program:
    """A StableHLO module compiled for the first device of jax."""

    def __init__(self, entry):
        import jax
        from jax._src import compiler
        from jax._src.interpreters import mlir
        from jax._src.lib import xla_client
        from jax._src.lib.mlir import ir

        self.entry, self.device = entry, jax.devices()[0]
        client = self.device.client
        options = compiler.get_compile_options(
            num_replicas=1, num_partitions=1, device_assignment=np.zeros((1, 1), int)
        )
        with mlir.make_ir_context():
            module = ir.Module.parse((HERE / entry["file"]).read_text())
            bytecode = mlir.module_to_bytecode(module)
        devices = xla_client.DeviceList((self.device,))
        self._executable = client.compile_and_load(bytecode, devices, options)
        stats = self._executable.get_compiled_memory_stats()
        self.temporary_bytes = stats.temp_size_in_bytes

    def place(self, values):
        """Arrays on the device, in the order of the program's arguments."""
        import jax

        with jax.enable_x64(True):  # counters are int64
            placed = [jax.device_put(value, self.device) for value in values]
        return placed

    def run(self, placed):
        """The results of one call, which has finished."""
        outputs = self._executable.execute_sharded(placed)
        outputs = [copies[0] for copies in outputs.disassemble_into_single_device_arrays()]
        for value in outputs:
            value.block_until_ready()
        return outputs


H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  platform_version: "Compute Capability 9.0a"
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
  l2_cache_size: 52428800
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  device_address_bits: 64
  ecc_enabled: true
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.19.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 19 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def plan(manifest):
    """Compiles every program for an H100 that is not there and prints its temporary memory. Needs jax with CUDA."""
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # which asks the driver of a card
    from jax._src import compiler
    from jax._src.interpreters import mlir
    from jax._src.lib import xla_client
    from jax._src.lib.mlir import ir
    from jax.experimental import topologies

    described = {"topology": "1x1x1", "target_config": H100}
    devices = topologies.get_topology_desc(platform="cuda", topology_name="H100", **described).devices
    options = compiler.get_compile_options(num_replicas=1, num_partitions=1, device_assignment=np.zeros((1, 1), int))
    for entry in manifest:
        with mlir.make_ir_context():
            module = ir.Module.parse((HERE / entry["file"]).read_text())
            compiled = devices[0].client.compile(module, xla_client.DeviceList(tuple(devices)), options)
        memory = compiled.get_compiled_memory_stats().temp_size_in_bytes / 2**20
        print(f"{entry['kind']} of {entry['n']:,} pairs, {entry['name']}: {memory:,.0f} MB", flush=True)


def value_of(argument, rng):
    """A value for an argument of a training step: weights as they start, or nearly so, zeros for what counts."""
    shape, dtype, name = tuple(argument["shape"]), np.dtype(argument["dtype"]), argument["name"]
    if argument["kind"] == "data":
        if name == "image":
            return rng.integers(0, 256, shape).astype(dtype) if dtype == np.uint8 else rng.random(shape, np.float32)
        return rng.integers(0, argument["below"], shape).astype(dtype)
    if argument["kind"] != "variable" or dtype.kind != "f" or "optimizer" in name:
        return np.zeros(shape, dtype)
    if not shape:
        return np.asarray(LOG_TEMPERATURE if name.endswith("log_temperature") else BIAS, dtype)
    if name.endswith(("gamma", "scale")):
        return np.ones(shape, dtype)
    return (0.02 * rng.standard_normal(shape)).astype(dtype) if len(shape) > 1 else np.zeros(shape, dtype)


def ours(entry, program):
    """(one timed call, what to report) of a compiled program."""
    if entry["kind"] == "loss":
        images, texts = embeddings(entry["n"], entry["dim"])
        values = {"images": images, "texts": texts, "log_temperature": LOG_TEMPERATURE, "bias": BIAS}
        placed = program.place([values.get(a["name"], np.int32(0)) for a in entry["arguments"]])  # or the replica's id
        loss, dx, dy, *_ = program.run(placed)
        found = {"errors": errors(images, texts, np.asarray(loss), dx, dy)}
    else:
        rng = np.random.default_rng(0)
        placed = program.place([value_of(a, rng) for a in entry["arguments"]])
        outputs = program.run(placed)
        # A step's variables share memory with its results, so each step takes those of the step before.
        names = [result["name"] for result in entry["results"]]
        found = {"loss": float(np.asarray(outputs[names.index("loss")]))}
        state = {"placed": program.place([value_of(a, np.random.default_rng(0)) for a in entry["arguments"]])}

        def step():
            results = program.run(state["placed"])
            state["placed"] = [
                results[a["result"]] if a["result"] is not None else value
                for a, value in zip(entry["arguments"], state["placed"], strict=True)
            ]

        found["temporary_megabytes"] = program.temporary_bytes / 2**20
        return step, found
    found["temporary_megabytes"] = program.temporary_bytes / 2**20
    return lambda: program.run(placed), found


# Rivals ------------------------------------------------------------------------------------------------------------


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


# Timing and tables -------------------------------------------------------------------------------------------------


def measure(makers, rounds, deadline, to_profile):
    """(name -> what is known of it, name -> its kernels); "seconds" of each round in turn, or why it is "left_out"."""
    found, calls, kernels = {}, {}, {}
    for name, make in makers.items():
        if isinstance(make, str):
            found[name] = {"left_out": make}
            continue
        try:
            calls[name], found[name] = make()
            calls[name]()  # compiles what was not compiled
            found[name]["seconds"] = []
        except Exception as error:  # one that fails, for want of memory say, must not cost the others their turn
            calls.pop(name, None)
            found[name] = {"left_out": f"{type(error).__name__}: {str(error)[:300]}"}
    for _ in range(rounds):
        for name, call in calls.items():
            if time.monotonic() > deadline:
                return found, kernels
            start = time.perf_counter()
            call()
            found[name]["seconds"].append(time.perf_counter() - start)
    for name in set(to_profile) & set(calls):
        try:
            kernels[name] = profiled(calls[name])
        except Exception as error:  # torch or CUPTI is missing: the figures are worth more than the list
            kernels[name] = f"not profiled: {type(error).__name__}: {error}"
    return found, kernels


def profiled(call, top=30):
    """The kernels of one call, the dearest first, by CUPTI: lines of milliseconds, launches, and name."""
    import torch

    call()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    rows = sorted(((e.self_device_time_total / 1000, e.count, e.key) for e in profile.key_averages()), reverse=True)
    lines = [f"{sum(row[0] for row in rows):.2f} ms in {sum(row[1] for row in rows)} kernels"]
    return "\n".join(lines + [f"{ms:9.3f} ms {count:5d} x {name[:110]}" for ms, count, name in rows[:top]])


def table(title, found):
    """Markdown."""
    lines = [f"\n{title}\n", "| | median ms | temporary MB | largest error against float64 |", "|---|---|---|---|"]
    for name, row in found.items():
        if "left_out" in row:
            lines.append(f"| {name} | left out: {row['left_out']} | | |")
            continue
        time_ms = f"{1000 * np.median(row['seconds']):.1f}" if row["seconds"] else "no time left"
        memory = f"{row['temporary_megabytes']:,.0f}" if "temporary_megabytes" in row else ""
        worst = f"{max(row['errors'].values()):.1e}" if "errors" in row else ""
        lines.append(f"| {name} | {time_ms} | {memory} | {worst} |")
    return "\n".join(lines)


def versions():
    """Of what ran."""
    found = {"python": platform.python_version()}
    for package in ("jax", "jaxlib", "numpy", "torch", "triton", "transformers", "siglip-kernel", "memeff"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def main():
    """Runs everything; what is done is written after each program, so that a cut loses nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rivals", default=HERE / "rivals", help="folder with the wheels of siglip-kernel and memeff")
    parser.add_argument("--seconds", type=float, default=600, help="no new round begins after this time")
    parser.add_argument("--profile", action="store_true", help="also list the kernels of our programs (needs torch)")
    parser.add_argument("--plan", action="store_true", help="compile for an H100 without a card and print memory")
    options = parser.parse_args()
    manifest = json.loads((HERE / "manifest.json").read_text())
    if options.plan:
        plan(manifest)
        return
    import jax

    deadline = time.monotonic() + options.seconds
    device = jax.devices()[0]
    results = {"device": f"{device.platform} {device.device_kind}", "versions": versions(), "tables": {}}
    text = [f"Device: {results['device']}. Versions: {results['versions']}."]
    pool = concurrent.futures.ThreadPoolExecutor()  # a step's compile takes minutes: all of them at once
    programs = {entry["file"]: pool.submit(Program, entry) for entry in manifest}
    concurrent.futures.wait(programs.values())  # nothing is timed beside a compiler
    for kind, n in dict.fromkeys((entry["kind"], entry["n"]) for entry in manifest):
        entries = [entry for entry in manifest if (entry["kind"], entry["n"]) == (kind, n)]
        makers = {e["name"]: lambda e=e: ours(e, programs.pop(e["file"]).result()) for e in entries}
        if kind == "loss":
            makers |= rivals(n, entries[0]["dim"], options.rivals)
            title = f"Loss and gradients, n = {n:,}, d = {entries[0]['dim']}"
        else:
            makers["transformers + torch"] = lambda entry=entries[0]: transformers_step(entry)
            title = f"Training step, {n} pairs"
        found, kernels = measure(makers, options.rounds, deadline, [e["name"] for e in entries] * options.profile)
        results["tables"][title] = found
        text.append(table(title, found))
        print(text[-1], flush=True)
        for name, listed in kernels.items():
            text.append(f"\n{title}: {name}\n\n{listed}")
            print(text[-1], flush=True)
        (HERE / "results.json").write_text(json.dumps(results, indent=1))
        (HERE / "results.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
