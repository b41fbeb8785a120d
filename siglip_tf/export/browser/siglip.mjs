// The exported model in a page: pictures and texts to embeddings and scores.
//
//     import { load } from "./siglip.mjs";
//     const model = await load(".");                       // the folder of encode_image.onnx
//     const image = await model.image(file);               // a File or Blob
//     const texts = await model.texts(["a cat", "a dog"]);
//     const { logits, probabilities } = model.scores(image, texts);
//
// onnxruntime-web runs the towers. SentencePiece itself, compiled to WebAssembly, tokenizes. Both come from
// node_modules/ beside this file, or from a CDN where that folder is missing.

const VERSIONS = { "onnxruntime-web": "1.30.0", "@sctg/sentencepiece-js": "1.3.3" };

async function library(name, file) {
  try {
    return await import(new URL(`node_modules/${name}/${file}`, import.meta.url));
  } catch {
    return await import(`https://cdn.jsdelivr.net/npm/${name}@${VERSIONS[name]}/${file}`);
  }
}

async function fetched(url) {
  // Asks whether a kept copy is still right: towers of one export and a vocabulary of another would not fit.
  const response = await fetch(url, { cache: "no-cache" });
  if (!response.ok) throw new Error(`Expected ${url}. Received: ${response.status} ${response.statusText}.`);
  return new Uint8Array(await response.arrayBuffer());
}

export async function load(folder = ".") {
  const at = (name) => new URL(name, new URL(`${folder}/`, document.baseURI));
  const [ort, sentencepiece, settings, vocabulary] = await Promise.all([
    library("onnxruntime-web", "dist/ort.wasm.bundle.min.mjs"),
    library("@sctg/sentencepiece-js", "dist/index.js"),
    fetched(at("preprocessing.json")).then((bytes) => JSON.parse(new TextDecoder().decode(bytes))),
    fetched(at("tokenizer.model")),
  ]);
  const processor = new sentencepiece.SentencePieceProcessor();
  await processor.loadFromB64StringModel(base64(vocabulary));
  const tower = async (name) => ort.InferenceSession.create(await fetched(at(`${name}.onnx`)));
  return new Model(ort, settings, processor, await tower("encode_image"), await tower("encode_text"));
}

class Model {
  constructor(ort, settings, processor, imageTower, textTower) {
    Object.assign(this, { ort, settings, processor, imageTower, textTower });
  }

  // File or Blob -> Float32Array (dim), l2-normalized.
  async image(file) {
    const inputs = this.settings.image.max_patches
      ? patches(await decoded(file, this.settings.image), this.settings.image)
      : squares(await decoded(file, this.settings.image), this.settings.image);
    const feeds = {};
    for (const [name, [type, values, shape]] of Object.entries(inputs)) {
      feeds[name] = new this.ort.Tensor(type, values, shape);
    }
    return (await this.imageTower.run(feeds)).embedding.data;
  }

  // Strings -> one Float32Array (dim) each, l2-normalized.
  async texts(texts) {
    const length = this.settings.text.length;
    const ids = Int32Array.from(texts.flatMap((text) => this.tokens(text)));
    const feeds = { token_ids: new this.ort.Tensor("int32", ids, [texts.length, length]) };
    const { data, dims } = (await this.textTower.run(feeds)).embedding;
    return texts.map((_, i) => data.slice(i * dims[1], (i + 1) * dims[1]));
  }

  // The ids of one text, padded.
  tokens(text) {
    const { length, eos_id, pad_id } = this.settings.text;
    const ids = this.processor.encodeIds(normalized(text, this.settings.text)).slice(0, length - 1);
    return [...ids, eos_id, ...Array(length - 1 - ids.length).fill(pad_id)];
  }

  // One image and texts -> logits, probabilities (their sigmoids), and shares (their softmax) of the texts.
  scores(image, texts) {
    const { temperature, bias } = this.settings.score;
    const logits = texts.map((text) => temperature * text.reduce((sum, value, i) => sum + value * image[i], 0) + bias);
    const most = Math.max(...logits);
    const total = logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0);
    return {
      logits,
      probabilities: logits.map((logit) => 1 / (1 + Math.exp(-logit))),
      shares: logits.map((logit) => Math.exp(logit - most) / total),
    };
  }
}

// A text as SentencePiece receives it.
export function normalized(text, { lower_case, punctuation }) {
  const lower = {
    unicode: () => text.toLowerCase(),
    simple: () => Array.from(text, (letter) => letter.toLowerCase()).join(""),
    ascii: () => text.replace(/[A-Z]/g, (letter) => letter.toLowerCase()),
    none: () => text,
  };
  text = lower[lower_case]();
  if (punctuation !== "strip") return text;
  const words = text.replace(/[!-/:-@[-`{-~]/g, "").split(/[\t-\r\x1c-\x20\x85\p{Z}]+/u);
  return words.filter((word) => word).join(" ");
}

// The pixels of a picture file: { width, height, rgb: Uint8ClampedArray (height * width * 3) }.
async function decoded(file, { exif, alpha }) {
  const bitmap = await createImageBitmap(file, {
    imageOrientation: exif ? "from-image" : "none",
    premultiplyAlpha: "none",
    colorSpaceConversion: "none",
  });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (alpha === "white") {
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
  }
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const rgb = new Uint8ClampedArray(width * height * 3);
  for (let i = 0; i < width * height; i++) rgb.set(rgba.subarray(4 * i, 4 * i + 3), 3 * i);
  return { width, height, rgb };
}

// -> the inputs of a tower of one resolution.
function squares(picture, settings) {
  const { height, width } = settings;
  const pixels = Float32Array.from(resized(picture, width, height, settings.method), (v) => v / 127.5 - 1);
  return { images: ["float32", pixels, [1, height, width, 3]] };
}

// -> the inputs of a NaFlex tower: the largest grid of patches that keeps the aspect.
function patches(picture, { patch_size: side, max_patches: most, method }) {
  const grid = (scale) => [picture.height, picture.width].map((n) => Math.max(Math.ceil((n * scale) / side), 1));
  let [low, high] = [1e-6, 100];
  while (high - low >= 1e-5) {
    const middle = (low + high) / 2;
    const [rows, columns] = grid(middle);
    if (rows * columns <= most) low = middle;
    else high = middle;
  }
  const [rows, columns] = grid(low);
  const pixels = resized(picture, columns * side, rows * side, method);
  const values = new Float32Array(most * side * side * 3).fill(-1);
  for (let y = 0; y < rows * side; y++) {
    for (let x = 0; x < columns * side * 3; x++) {
      const patch = Math.floor(y / side) * columns + Math.floor(x / (side * 3));
      const place = (patch * side + (y % side)) * side * 3 + (x % (side * 3));
      values[place] = pixels[y * columns * side * 3 + x] / 127.5 - 1;
    }
  }
  return {
    patches: ["float32", values, [1, most, side * side * 3]],
    grid: ["int32", Int32Array.of(rows, columns), [1, 2]],
  };
}

const FILTERS = {
  big_vision: { reach: 1, antialias: false, weight: (x) => Math.max(1 - x, 0) },
  bilinear_antialias: { reach: 1, antialias: true, weight: (x) => Math.max(1 - x, 0) },
  bicubic_antialias: {
    reach: 2,
    antialias: true,
    weight: (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0),
  },
};

// Pixels as Pillow resizes them, or for "big_vision" as TensorFlow does without antialiasing.
export function resized({ width, height, rgb }, newWidth, newHeight, method) {
  const filter = FILTERS[method];
  // Pillow keeps bytes between both directions; TensorFlow keeps floats and cuts at the end. The small number stands
  // for the rounding of weights whose sum is one.
  const between = filter.antialias ? (size) => new Uint8ClampedArray(size) : (size) => new Float64Array(size);
  const columns = between(height * newWidth * 3);
  along(rgb, columns, width, newWidth, height, [3, width * 3], [3, newWidth * 3], filter);
  const rows = between(newHeight * newWidth * 3);
  along(columns, rows, height, newHeight, newWidth, [newWidth * 3, 3], [newWidth * 3, 3], filter);
  return filter.antialias ? rows : Uint8ClampedArray.from(rows, (value) => Math.floor(value + 1e-6));
}

// Resizes one direction: `from` values to `to` values in each of `lines` lines. A step is [to the next, to the line].
function along(source, target, from, to, lines, [next, line], [newNext, newLine], { reach, antialias, weight }) {
  const scale = from / to;
  const stretch = antialias ? Math.max(scale, 1) : 1;
  for (let i = 0; i < to; i++) {
    const center = (i + 0.5) * scale;
    const first = Math.max(Math.floor(center - reach * stretch + 0.5), 0);
    const last = Math.min(Math.floor(center + reach * stretch + 0.5), from);
    const weights = [];
    for (let j = first; j < last; j++) weights.push(weight(Math.abs((j - center + 0.5) / stretch)));
    const total = weights.reduce((sum, value) => sum + value, 0);
    for (let l = 0; l < lines; l++) {
      for (let color = 0; color < 3; color++) {
        let sum = 0;
        for (let j = 0; j < weights.length; j++) sum += weights[j] * source[(first + j) * next + l * line + color];
        target[i * newNext + l * newLine + color] = sum / total;
      }
    }
  }
}

function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}
